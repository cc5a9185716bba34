"""Where a network looks, as pure functions of its features and logits.

>>> import torch
>>> features = torch.zeros(1, 2, 2, 2)
>>> features[0, :, 0, 1] = 3.0
>>> attention_map(features)
tensor([[0., 1., 0., 0.]])
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

MapKind = Literal["sum", "max"]

LEAST_NORM = 1e-12  # as in torch's normalize


def at_least_float32(value: Tensor) -> Tensor:
    """The same value in float32, or unchanged where it is float64: losses are never computed in half precision."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def never_halved(move: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """What a move or cast makes of a value, in float32 where it would come below that.

    Args:
        move: to another device, type or memory format.
        value: of any type.
    """
    moved = move(value)
    if value.is_floating_point() and moved.dtype.itemsize < min(value.dtype.itemsize, torch.float32.itemsize):
        return value.to(moved.device, torch.float32)
    return moved


def attention_map(
    features: Float[Tensor, "b c h w"], power: float = 2.0, kind: MapKind = "sum"
) -> Float[Tensor, "b h*w"]:
    """Where a layer looks: channels collapsed to one unit-norm spatial map per image.

    F_sum, F_sum^p and F_max^p of section 3.1, Zagoruyko & Komodakis (ICLR 2017, arXiv:1612.03928).

    Args:
        features: activations of one layer, any scale and sign.
        power: exponent p of |A|, at least 1; larger favours the strongest positions. 1 with `sum` is F_sum.
        kind: `sum` collapses channels by their sum, `max` by their largest magnitude.

    Returns:
        Maps with L2 norm 1; a layer without any activation gives zeros.

    Departs from the paper: averages over channels where the paper sums; the unit norm cancels it. The absolute value
    is taken for every power, odd ones included, as the paper writes it; several public implementations leave it out.
    """
    if kind == "sum" and power == 2:
        return functional.normalize(_MeanSquare.apply(features).flatten(1), dim=1)
    features = at_least_float32(features)
    if kind == "max":
        collapsed = features.abs().amax(1).pow(power)
    elif power == 1:
        collapsed = features.abs().mean(1)
    else:
        collapsed = features.abs().pow(power).mean(1)
    return functional.normalize(collapsed.flatten(1), dim=1)


def unit(values: Float[Tensor, "*b n"], order: float = 2.0) -> Float[Tensor, "*b n"]:
    """Values divided by their norm over the last dimension.

    Where they are zero, as with a head that starts at zero, they stay zero and pass no gradient on: there is no
    direction yet, and a slope of one over almost nothing would throw the first step out of range.

    Args:
        values: any scale.
        order: of the norm, 1 or 2.
    """
    norm = torch.linalg.vector_norm(values, order, dim=-1, keepdim=True)
    return torch.where(norm > LEAST_NORM, values, values.detach()) / norm.clamp_min(LEAST_NORM)


def class_maps(
    features: Float[Tensor, "b c h w"], weight: Float[Tensor, "k c"], bias: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "b k h w"]:
    """Where the evidence for each class lies: the linear head applied at every position of the last features.

    Class activation maps, Eq. 2 of Guo et al. (CVPR 2023, arXiv:2304.12777). Their mean over positions is the logits,
    without the head's bias if that is left out. Pooling over areas commutes with them: pool the features first.

    Args:
        features: what global average pooling takes.
        weight: of the head.
        bias: of the head, added at every position.
    """
    return functional.conv2d(
        features, weight.to(features.dtype)[:, :, None, None], None if bias is None else bias.to(features.dtype)
    )


def binarised(
    maps: Float[Tensor, "b k h w"], threshold: Literal["mean", "median"] = "mean"
) -> Float[Tensor, "b k h w"]:
    """1 where a map lies above its own threshold, else 0.

    Section 4.2 of Guo et al. (CVPR 2023, arXiv:2304.12777).

    Args:
        maps: one per class.
        threshold: `mean` of the map's magnitudes, as the authors' code has it, or the map's `median` (the lower one of
            an even number of positions). A position must lie strictly above it.

    Departs from the paper: it says the average value; the mean of magnitudes is what was run.
    """
    flat = maps.flatten(2)
    level = flat.abs().mean(2) if threshold == "mean" else flat.median(2).values
    return (maps > level[:, :, None, None]).to(maps.dtype)


def same_size(
    first: Float[Tensor, "b c ..."], second: Float[Tensor, "b d ..."]
) -> tuple[Float[Tensor, "b c ..."], Float[Tensor, "b d ..."]]:
    """Both features at the smaller height and width of the two, and time of volumes; larger ones averaged over areas.

    Args:
        first: of shape (batch, channels, height, width), or (batch, channels, time, height, width).
        second: same as for `first`, with as many dimensions.
    """
    size = tuple(map(min, first.shape[2:], second.shape[2:]))
    return averaged_to(first, size), averaged_to(second, size)


def averaged_to(features: Float[Tensor, "b c ..."], size: Sequence[int]) -> Float[Tensor, "b c ..."]:
    """Features averaged over areas to another size; unchanged if they have it.

    Args:
        features: of two sides, or of three (volumes).
        size: of each side.
    """
    if features.shape[2:] == tuple(size):
        return features
    pool: Any = functional.adaptive_avg_pool2d if len(size) == 2 else functional.adaptive_avg_pool3d
    return pool(at_least_float32(features), tuple(size))


class _MeanSquare(torch.autograd.Function):
    """Mean of squares over channels, summed in float32.

    Its own gradient reads the features once and writes once; autograd's chain of square, mean and cast makes several
    passes. Twice differentiable.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return at_least_float32(features).square().mean(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        (features,) = ctx.saved_tensors
        (gradient,) = gradients
        return features * (gradient * (2 / features.shape[1])).unsqueeze(1).to(features.dtype)
