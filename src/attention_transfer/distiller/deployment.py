"""A student as it is used after training, where it cannot do without its teacher."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class Deployed(nn.Module):
    """Student and teacher as one network from images to logits.

    Args:
        distiller: holds both; a module, so that modes and devices reach the networks.
        predict: its way from images to logits.
    """

    def __init__(self, distiller: nn.Module, predict: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.distiller = distiller
        self._predict = predict

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of the student, computed with its teacher."""
        return self._predict(images)
