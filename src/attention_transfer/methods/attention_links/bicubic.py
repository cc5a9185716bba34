"""Bicubic interpolation of many channels at once."""

from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attention_transfer.methods.layers.maps import at_least_float32

Grid = tuple[int, int]

# Up to so many positions torch's loop takes several times as long on a CPU; from some 900 it is as fast.
_FEW_POSITIONS = 512


def resized(
    stages: Sequence[Float[Tensor, "b c i j"]], grid: Grid, *, align_corners: bool = False, antialias: bool = False
) -> list[Float[Tensor, "b c p"]]:
    """Channels of several stages over one grid, in float32 or better; all channels of one size in one call.

    Args:
        stages: of a network of convolutions, constants.
        grid: rows and columns of the result.
        align_corners: as torch has it.
        antialias: likewise.
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
