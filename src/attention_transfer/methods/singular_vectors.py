"""How a layer answers to an image, in one direction: leading right singular vectors, as pure functions."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from attention_transfer.methods.maps import at_least_float32, unit

# Eigenvalues of a Gram matrix that differ by less than this many roundings of the largest one are not told apart.
_ROUNDINGS = 100


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
    largest = torch.linalg.vector_norm(matrix.detach(), torch.inf, (1, 2), keepdim=True)
    finite = largest.isfinite()
    # Within −1…1, so that no square overflows.
    matrix = matrix / torch.where(finite & (largest > 0), largest, 1.0)
    positions, channels = matrix.shape[1:]
    count = min(count, positions, channels)
    if channels <= positions:
        vectors = _leading(_without(~finite, matrix.mT @ matrix), count)
    else:
        others = _leading(_without(~finite, matrix @ matrix.mT), count)
        vectors = unit((matrix.mT @ others).mT).mT
    return torch.where(finite, vectors, torch.nan)


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


def _without(images: Bool[Tensor, "b 1 1"], gram: Float[Tensor, "b n n"]) -> Float[Tensor, "b n n"]:
    """Gram matrices, those of some images replaced by zeros: a decomposition of what is not finite raises."""
    return torch.where(images, torch.zeros_like(gram), gram)


def _leading(gram: Float[Tensor, "b n n"], count: int) -> Float[Tensor, "b n k"]:
    """Eigenvectors of the largest eigenvalues, zero where these cannot be told from zero."""
    vectors, values = _Eigenvectors.apply(gram, count)
    return torch.where((values > _rounding(values))[:, None], vectors, torch.zeros_like(vectors))


def _rounding(values: Float[Tensor, "b k"]) -> Float[Tensor, "b 1"]:
    """What difference of eigenvalues means nothing."""
    return _ROUNDINGS * torch.finfo(values.dtype).eps * values.amax(1, keepdim=True)


class _Eigenvectors(torch.autograd.Function):
    """Eigenvectors and eigenvalues of the largest eigenvalues; the eigenvalues carry no gradient.

    For a change dG of the matrix, dv_k = Σ_j v_j (v_jᵀ dG v_k) / (λ_k − λ_j) over all j ≠ k. torch's own gradient of
    `eigh` is infinite or NaN as soon as any two eigenvalues are equal, those that nobody asked for included.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, count: int) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(gram)
        ctx.save_for_backward(values, vectors)
        ctx.count = count
        leading = values[:, -count:].flip(1)
        ctx.mark_non_differentiable(leading)
        return vectors[:, :, -count:].flip(2), leading

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, vectors = ctx.saved_tensors
        gradient = gradients[0].flip(2)
        first = values.shape[1] - ctx.count
        gaps = values[:, None, first:] - values[:, :, None]
        told_apart = gaps.abs() > _rounding(values)[:, None]
        turned = torch.where(told_apart, (vectors.mT @ gradient) / torch.where(told_apart, gaps, 1.0), 0.0)
        found = vectors @ turned @ vectors[:, :, first:].mT
        return (found + found.mT) / 2, None
