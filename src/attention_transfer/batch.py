"""What a loader yields and a distiller reads.

>>> import torch
>>> Batch(torch.rand(2, 3, 8, 8), torch.tensor([0, 1])).index is None
True
"""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

# The class index of an image without a label, as torch's cross-entropy has it: the task leaves such an image out.
UNLABELLED = -100


@dataclass(frozen=True)
class Batch:
    """Images of one step with their labels and dataset indices.

    Args:
        image: normalised as the student expects them.
        label: class indices, `UNLABELLED` for an image without a label, or one probability vector per image (mixup), or
            None where nothing needs labels.
        index: dataset index of each image; None if unknown.
    """

    image: Float[Tensor, "b 3 h w"]
    label: Int64[Tensor, " b"] | Float[Tensor, "b k"] | None = None
    index: Int64[Tensor, " b"] | None = None
