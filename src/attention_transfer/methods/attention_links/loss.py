"""How far combinations of attention maps are from the channels that they are linked to, at one size.

>>> import torch
>>> [stage.shape for stage in resized([torch.rand(1, 2, 8, 8)], (4, 4))]
[torch.Size([1, 2, 16])]
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from attention_transfer.methods.attention_maps.chunks import elements_at_once
from attention_transfer.methods.layers.maps import LEAST_NORM, at_least_float32

Grid = tuple[int, int]

# Up to so many positions torch's loop takes several times as long on a CPU; from some 900 it is as fast.
_FEW_POSITIONS = 512


def resized(
    stages: Sequence[Float[Tensor, "b c i j"]], grid: Grid, *, align_corners: bool = False, antialias: bool = False
) -> list[Float[Tensor, "b c p"]]:
    """Channels of several stages over one grid, in float32 or better; all channels of one size in one call.

    Args:
        stages: of a convolutional network, constants.
        grid: rows and columns of the result.
        align_corners: as torch has it.
        antialias: same as for `align_corners`.
    """
    found: dict[int, Tensor] = {}
    for size in {stage.shape[2:] for stage in stages}:
        alike = [number for number, stage in enumerate(stages) if stage.shape[2:] == size]
        together = torch.cat([stages[number] for number in alike], 1) if len(alike) > 1 else stages[alike[0]]
        whole = _resized(together, grid, align_corners, antialias)
        found |= dict(zip(alike, whole.split([stages[number].shape[1] for number in alike], 1), strict=True))
    return [found[number] for number in range(len(stages))]


def _resized(
    channels: Float[Tensor, "b c i j"], grid: Grid, align_corners: bool, antialias: bool
) -> Float[Tensor, "b c p"]:
    rows, columns = channels.shape[2:]
    if (rows, columns) == grid:
        return at_least_float32(channels).flatten(2)
    few = max(_FEW_POSITIONS, grid[0] * grid[1] - 1)
    if rows * columns <= few and not torch.compiler.is_compiling():
        # Of few positions the product with a matrix gives the same many times as fast as torch's loop.
        channels = at_least_float32(channels)
        settings = (align_corners, antialias, channels.device, channels.dtype)
        return channels.flatten(2) @ torch.kron(_matrix(rows, grid[0], *settings), _matrix(columns, grid[1], *settings))
    large = functional.interpolate(channels, grid, mode="bicubic", align_corners=align_corners, antialias=antialias)
    return at_least_float32(large).flatten(2)


@cache
def _matrix(
    source: int, wanted: int, align_corners: bool, antialias: bool, device: torch.device, kind: torch.dtype
) -> Float[Tensor, "s w"]:
    """How much each position of a line gives to each of another: bicubic interpolation is linear, line by line."""
    # As rows: of columns one wide, torch's antialiasing gives the first value everywhere.
    lines = torch.eye(source, device=device, dtype=kind)[:, None, None, :]
    line = functional.interpolate(lines, (1, wanted), mode="bicubic", align_corners=align_corners, antialias=antialias)
    return line[:, 0, 0]


Form = Literal["mean-square", "norm"]


def link_distance(
    maps: Float[Tensor, "b n p"],
    weight: Float[Tensor, "c n"],
    bias: Float[Tensor, " c"],
    target: Float[Tensor, "b c p"],
    form: Form = "mean-square",
) -> Float[Tensor, ""]:
    """Distance of unit-norm combinations of maps from unit-norm targets: mean over images, sum over channels.

    Eq. 4 and 5 of Jin & Choi (arXiv:2211.13852): A⁺_c = Σ_n w_cn A_n + b_c, then A⁺_c/‖A⁺_c‖ − B_c/‖B_c‖. A map that
    is zero everywhere has no direction: it stays zero and passes no gradient on.

    The combinations, which are many, are made a few images at a time and not kept: gradients of maps, weight and bias
    are computed with the value.

    Args:
        maps: of the student, heads of all linked layers.
        weight: of the links.
        bias: same as for `weight`.
        target: channels of the teacher over the same positions, a constant.
        form: `mean-square` is the mean over positions of the squared difference, `norm` its L2 norm.
    """
    return _LinkDistance.apply(maps, weight, bias, target, form)


class _LinkDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, target: Tensor, form: Form) -> Tensor:
        wanted = any(ctx.needs_input_grad[:3])
        gradients = [torch.zeros_like(each) for each in (maps, weight, bias)] if wanted else []
        sums: list[Tensor] = []
        for some in _pieces(target):
            part, theirs = maps[some], target[some]
            ours = torch.baddbmm(bias[:, None].expand(len(part), -1, 1), weight.expand(len(part), *weight.shape), part)
            norm, their_norm = (_norm(each) for each in (ours, theirs))
            cosine = (ours * theirs).sum(-1, keepdim=True) / (norm * their_norm)
            squares = (norm > LEAST_NORM).to(ours) + (their_norm > LEAST_NORM).to(ours)
            square = (squares - 2 * cosine).clamp_min(0)
            if form == "mean-square":
                value, slope = square / target.shape[2], -2 / target.shape[2]
            else:
                value = square.sqrt()
                # Where both are the same, any slope will do; with zero they stay.
                slope = torch.where(value > 0, -1 / value, 0)
            sums.append(value.sum())
            if wanted:
                slope = slope / len(target) * (norm > LEAST_NORM).to(norm)
                d_ours = ours.mul_(-slope * cosine / norm.square()).addcmul_(theirs, slope / (norm * their_norm))
                gradients[0][some] = weight.mT @ d_ours
                gradients[1] += (d_ours @ part.mT).sum(0)
                gradients[2] += d_ours.sum((0, 2))
        ctx.save_for_backward(*gradients)
        return torch.stack(sums).sum() / len(target)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        return *(gradient * each if each is not None else None for each in ctx.saved_tensors), None, None


def _norm(values: Float[Tensor, "b c p"]) -> Float[Tensor, "b c 1"]:
    return torch.linalg.vector_norm(values, dim=-1, keepdim=True).clamp_min(LEAST_NORM)


def _pieces(target: Float[Tensor, "b c p"]) -> Iterator[slice]:
    """Stretches of images."""
    count = len(target)
    piece = elements_at_once(target.device)
    # A compiled graph would hold every piece by itself.
    step = count if torch.compiler.is_compiling() else max(1, piece // target[0].numel())
    for start in range(0, count, step):
        yield slice(start, start + step)
