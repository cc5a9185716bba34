"""The eigenvector of the largest eigenvalue, of many small matrices at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from attention_transfer.methods.layers.maps import unit

# How often a matrix is squared before it is applied, in the first attempt and, where that was not enough, in the next.
_SQUARINGS = (0, 3)
_STEPS = 8
# An eigenvector is one that the matrix turns by no more than this many roundings.
_ROUNDINGS = 16


@torch.no_grad()
def first_eigenvector(
    gram: Float[Tensor, "b n n"], squarings: Sequence[int] = _SQUARINGS
) -> tuple[Float[Tensor, "b 1"], Float[Tensor, "b n 1"]]:
    """The largest eigenvalue of each matrix and its eigenvector, without gradient.

    Powers of a matrix turn vectors towards it, which is much cheaper than a decomposition. Matrices get this where
    powers are not enough: where the vector still turns, or may be that of another eigenvalue, which is almost as large.

    Args:
        gram: symmetric, with no negative eigenvalue.
        squarings: one number for each attempt; higher powers cost more and are enough more often.
    """
    # Which matrices need another attempt is not known to a compiled graph.
    if not squarings or torch.compiler.is_compiling():
        values, vectors = torch.linalg.eigh(gram)
        return values[:, -1:], vectors[:, :, -1:]
    power = _of_unit_trace(gram)
    for _ in range(squarings[0]):
        power = _of_unit_trace(power @ power)
    longest = power.diagonal(dim1=1, dim2=2).argmax(1)
    vector = power.gather(2, longest[:, None, None].expand(-1, power.shape[1], 1))
    for _ in range(_STEPS):
        vector = unit((power @ vector).mT).mT
    image = gram @ vector
    value = (vector * image).sum(1)
    turned = torch.linalg.vector_norm(image - value[:, None] * vector, dim=1)
    still = turned <= _ROUNDINGS * torch.finfo(gram.dtype).eps * value
    # The squares of all eigenvalues sum to that of the norm: one that has more than half of it is the largest.
    first = (vector * (power @ vector)).sum(1).square() > power.square().sum((1, 2))[:, None] / 2
    unsure = ~(still & first).squeeze(1)
    if unsure.any():
        value[unsure], vector[unsure] = first_eigenvector(gram[unsure], squarings[1:])
    return value, vector


def _of_unit_trace(gram: Float[Tensor, "b n n"]) -> Float[Tensor, "b n n"]:
    """Eigenvalues that sum to one, or zeros."""
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    return gram / torch.where(trace > 0, trace, 1.0)
