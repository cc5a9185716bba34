"""How the loss of each image changes with its pixels."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel


def input_gradient(
    logits: Float[Tensor, "b k"],
    image: Float[Tensor, "b c h w"],
    label: Int64[Tensor, " b"] | Float[Tensor, "b k"],
    *,
    twice: bool,
) -> Float[Tensor, "b c h w"]:
    """The gradient of each image's own cross-entropy with respect to its pixels.

    J of section 3.2, Zagoruyko & Komodakis (ICLR 2017, arXiv:1612.03928).

    Args:
        logits: computed from `image`; their graph is kept.
        image: requires a gradient.
        label: class numbers or class probabilities.
        twice: whether the result must itself be differentiable.

    Departs from the paper: the cross-entropy is summed over the batch, so that J does not shrink with its size. Batch
    normalisation with statistics of the batch still lets images of one batch act on each other's gradient.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    loss = functional.cross_entropy(wide, label, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, image, create_graph=twice, retain_graph=True)
    return gradient


@contextmanager
def twice_differentiable() -> Generator[None]:
    """Attention inside is computed by the kernel that has a second derivative; the fused ones have none."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
