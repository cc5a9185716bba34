"""How a layer answers to an image, in one direction: leading right singular vectors, as pure functions.

>>> import torch
>>> singular_vectors(torch.rand(2, 8, 4, 4), count=3).shape
torch.Size([2, 8, 3])
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from attention_transfer.methods.layers.maps import at_least_float32, unit

# How often a matrix is squared before it is applied, in the first attempt and, where that was not enough, in the next.
_SQUARINGS = (0, 3)
_STEPS = 8
# An eigenvector is one that the matrix turns by no more than this many roundings.
_EIGENVECTOR_ROUNDINGS = 16


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
    still = turned <= _EIGENVECTOR_ROUNDINGS * torch.finfo(gram.dtype).eps * value
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


# Eigenvalues of a Gram matrix that differ by less than this many roundings of the largest one are not told apart.
_ROUNDINGS = 100
# Matrices whose squares sum to less than this, and to more than one over it, can be multiplied without any precaution.
_LARGE = 1e20


def singular_vectors(features: Float[Tensor, "b c h w"], count: int) -> Float[Tensor, "b c k"]:
    """The first right singular vectors of each image's (positions × channels) matrix, of unit length.

    The compression of section 3.1, Lee & Song (BMVC 2019, arXiv:1907.02226), after Lee, Kim & Song (ECCV 2018). They
    are computed from the smaller of the two Gram matrices, (channels × channels) or (positions × positions), in float32
    at least, all images at once.

    Args:
        features: of one layer, any scale and sign; their size does not change the result.
        count: how many, at least 1. There are no more than positions and channels: where the layer has fewer of either,
            k is that number.

    Returns:
        Vectors by falling singular value; their signs are arbitrary. A vector whose singular value cannot be told from
        zero (in float32 below about 0.0035 times the largest) is zero and has no gradient, for it has no direction;
        an image without any activation has zeros only. An image with values that are not finite has NaN, so that
        whoever watches the loss sees it.

    The gradient stays finite where singular values are equal or zero: what two vectors would exchange by turning in
    their common plane, which divides by the difference of their eigenvalues, is left out where this is below 100
    roundings of the largest eigenvalue. With distinct singular values it is exact.

    Departs from the paper: the authors' code takes a plain decomposition where positions and channels are of like
    number, and puts zero where the gradient is not finite.
    """
    # A view in either memory format: height and width lie together in both.
    matrix = at_least_float32(features).permute(0, 2, 3, 1).flatten(1, 2)
    count = min(count, *matrix.shape[1:])
    if matrix.requires_grad:
        return cast(Tensor, _SingularVectors.apply(matrix, count))
    return _Decomposition.of(matrix, count, all_values=count > 1).vectors


def oriented(vectors: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
    """Vectors with the sign that makes their sum positive.

    The first singular vector of features that are nowhere negative, such as those after a ReLU, has no negative entry;
    this is then its natural sign.
    """
    return vectors * torch.where(vectors.detach().sum(1, keepdim=True) < 0, -1.0, 1.0)


def aligned(vectors: Float[Tensor, "b c k"], target: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
    """For each image the vector that agrees best with a target, with the target's sign.

    Args:
        vectors: candidates, of unit length.
        target: taken as a constant.
    """
    agreement = torch.einsum("bck,bc->bk", vectors.detach(), target.detach())
    best = agreement.abs().argmax(1, keepdim=True)
    sign = torch.where(agreement.gather(1, best) < 0, -1.0, 1.0)
    return vectors.gather(2, best[:, None].expand(-1, vectors.shape[1], 1)).squeeze(2) * sign


def _gram(
    matrix: Float[Tensor, "b p c"],
) -> tuple[Float[Tensor, "b n n"], Float[Tensor, "b 1 1"], Bool[Tensor, "b 1 1"]]:
    """The smaller Gram matrix of each X times a factor, that factor, and whether X is finite; zeros where it is not."""

    def product(values: Tensor) -> Tensor:
        return values @ values.mT if values.shape[1] < values.shape[2] else values.mT @ values

    gram = product(matrix)
    squares = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    usual = (squares > 1 / _LARGE) & (squares < _LARGE)
    # A compiled graph cannot choose.
    if not torch.compiler.is_compiling() and usual.all():
        return gram, torch.ones_like(squares), usual
    # Within −1…1 no square overflows. Much faster than a norm of infinite order, which is the same.
    largest = torch.maximum(matrix.amax((1, 2), keepdim=True), -matrix.amin((1, 2), keepdim=True))
    finite = largest.isfinite()
    normal = finite & (largest >= torch.finfo(largest.dtype).tiny)
    factor = torch.where(normal, largest, 1.0).reciprocal()
    gram = product(matrix * factor)
    # A decomposition of what is not finite raises.
    return torch.where(finite, gram, torch.zeros_like(gram)), factor, finite


def _rounding(values: Float[Tensor, "b k"]) -> Float[Tensor, "b 1"]:
    """What difference of eigenvalues means nothing."""
    return _ROUNDINGS * torch.finfo(values.dtype).eps * values.amax(1, keepdim=True)


class _Decomposition(NamedTuple):
    """What is known of each image's matrix X, multiplied by a factor.

    Args:
        vectors: the first right singular vectors.
        values: eigenvalues of the smaller Gram matrix, rising; of the first vector alone if no others were wanted.
        basis: its eigenvectors, in the same order.
        factor: one, or where values of the batch have an unusual size, one over the largest value of X.
    """

    vectors: Float[Tensor, "b c k"]
    values: Float[Tensor, "b n"]
    basis: Float[Tensor, "b m n"]
    factor: Float[Tensor, "b 1 1"]

    @classmethod
    def of(cls, matrix: Float[Tensor, "b p c"], count: int, *, all_values: bool) -> "_Decomposition":
        """Decompose matrices.

        Args:
            matrix: of each image.
            count: of right singular vectors.
            all_values: find all eigenvalues; without it the first one alone, for a `count` of 1.
        """
        gram, factor, finite = _gram(matrix)
        values, basis = torch.linalg.eigh(gram) if all_values else first_eigenvector(gram)
        told_from_zero = values[:, None, -count:] > _rounding(values)[:, None]
        leading = torch.where(told_from_zero, basis[:, :, -count:], 0.0).flip(2)
        # Back from positions to channels.
        wide = matrix.shape[1] < matrix.shape[2]
        vectors = unit((matrix.mT @ (leading * factor)).mT).mT if wide else leading
        return cls(torch.where(finite, vectors, torch.nan), values, basis, factor)


class _SingularVectors(torch.autograd.Function):
    """Right singular vectors v_k of X, and their gradient.

    With λ_j and v_j all eigenvalues and -vectors of XᵀX, a gradient g_k of v_k is one of X of rank two, X·(w_k v_kᵀ +
    v_k w_kᵀ), where w_k = Σ_j v_j (v_jᵀ g_k) / (λ_k − λ_j) over j ≠ k: far less to compute than to go back through the
    Gram matrix. torch's own gradient of a decomposition is infinite or NaN as soon as any two eigenvalues are equal,
    those that nobody asked for included.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, count: int) -> Tensor:
        found = _Decomposition.of(matrix, count, all_values=True)
        ctx.save_for_backward(matrix, *found)
        return found.vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        matrix, vectors, values, basis, factor = ctx.saved_tensors
        leading = values[:, None, -vectors.shape[2] :].flip(2)
        rounding = _rounding(values)[:, None]
        gradient = torch.where(leading > rounding, gradients[0], 0.0)
        gaps = leading - values[:, :, None]
        told_apart = gaps.abs() > rounding

        def turned(wanted: Tensor) -> Tensor:
            return basis @ torch.where(told_apart, (basis.mT @ wanted) / torch.where(told_apart, gaps, 1.0), 0.0)

        if matrix.shape[1] < matrix.shape[2]:
            # The basis is of positions: of u_j = X v_j / √λ_j. What of g_k lies in none of the v_j turns by 1 / λ_k.
            answers, lengths = (matrix @ torch.cat([gradient, vectors], 2) * factor).tensor_split(2, 2)
            ours = turned(answers)
            rest = gradient - vectors * (vectors * gradient).sum(1, keepdim=True)
            others = (rest + matrix.mT @ (ours * factor)) / torch.where(leading > rounding, leading, 1.0)
            left = torch.cat([ours, lengths], 2)
        else:
            others = turned(gradient)
            left = matrix @ torch.cat([others, vectors], 2) * factor
        return left @ (torch.cat([vectors, others], 2) * factor).mT, None
