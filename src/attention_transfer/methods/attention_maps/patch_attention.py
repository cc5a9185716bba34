"""How much a transformer layer attends to each patch of an image, as one map per head.

>>> import torch
>>> finest([torch.rand(1, 2, 4, 4), torch.rand(1, 2, 8, 8)])
(8, 8)
"""

from collections.abc import Sequence
from math import isqrt, sqrt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attention_transfer.capture import Attention
from attention_transfer.errors import InputError
from attention_transfer.methods.attention_maps.resampling import class_tokens
from attention_transfer.methods.layers.maps import at_least_float32

Softmax = Literal["patches", "all"]


def patch_attention(
    attention: Attention, images: int, softmax: Softmax = "patches", *, scaled: bool = True
) -> Float[Tensor, "b h r c"]:
    """What the class token, or without one the mean query, takes from each patch, in float32 or better.

    Eq. 3 of Jin & Choi (arXiv:2211.13852). Other tokens before the patches (distillation, registers) are left out. The
    mean query is the mean of the queries of all patches; it lies at no place, so a bias that goes by place is not
    added. Where only maps can be read, it is the mean of their rows instead. Within windows each window has a mean
    query of its own; their maps are put together to that of the image, and divided by the number of windows.

    Args:
        attention: one layer.
        images: in the batch; a layer of windows has several times as many.
        softmax: over the `patches` alone, so that each map sums to 1, or over `all` tokens, of which the patches are
            then taken.
        scaled: whether logits are divided by √d as in the network itself; without, they are √d times as large.

    Raises:
        ValueError: for tokens that fill no grid or do not belong to the image, windows whose places are not known, or a
            softmax that was read only as its result and should be taken of other logits.
    """
    if attention.padded:
        raise InputError(
            "a layer's windows reach beyond the image, which was filled up, so that its maps are not of the patches "
            "alone: take images whose patches a whole number of windows covers (224 pixels for windows of 7), another "
            "window size, or name other layers with student_layers"
        )
    rows, columns = _grid(attention)
    if attention.weights is not None:
        if not scaled:
            raise InputError(
                "this layer writes its attention out by hand, so its logits cannot be read: take scaled=True, which is "
                "how it computes them"
            )
        weights = at_least_float32(attention.weights)
        prefix = attention.prefix_tokens
        row = weights[:, :, 0] if class_tokens(attention) else weights[:, :, prefix:].mean(2)
        found = row[..., prefix:]
        if softmax == "patches":
            found = found / found.sum(-1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)
    else:
        found = _of_query(attention, softmax, scaled)
    maps = found.unflatten(-1, (rows, columns))
    return maps if len(maps) == images else _of_windows(maps, images, attention.window_shift)


def on_one_grid(maps: Sequence[Float[Tensor, "b h r c"]], grid: tuple[int, int]) -> Float[Tensor, "b n p"]:
    """Maps of several layers over one grid, heads after heads; those over another are resized and keep their sum.

    Args:
        maps: one per layer, of any grids.
        grid: rows and columns of the result.
    """
    fitted: list[Tensor] = []
    for each in maps:
        if tuple(each.shape[2:]) != grid:
            large = functional.interpolate(each, grid, mode="bilinear", align_corners=False, antialias=True)
            # At borders, and where one grid does not divide the other, positions count unequally.
            least = torch.finfo(large.dtype).tiny
            each = large * (each.sum((2, 3), keepdim=True) / large.sum((2, 3), keepdim=True).clamp_min(least))
        fitted.append(each.flatten(2))
    return fitted[0] if len(fitted) == 1 else torch.cat(fitted, 1)


def finest(maps: Sequence[Float[Tensor, "b h r c"]]) -> tuple[int, int]:
    """The largest grid of any layer."""
    return max(((each.shape[2], each.shape[3]) for each in maps), key=lambda grid: grid[0] * grid[1])


def _of_query(attention: Attention, softmax: Softmax, scaled: bool) -> Float[Tensor, "b h p"]:
    assert attention.query is not None
    assert attention.key is not None
    prefix, bias = attention.prefix_tokens, None
    if class_tokens(attention):
        query = at_least_float32(attention.query[:, :, :1])
        if attention.bias is not None:
            bias = attention.bias[..., :1, :]
    else:
        query = at_least_float32(attention.query[:, :, prefix:]).mean(2, keepdim=True)
    start = prefix if softmax == "patches" else 0
    scale = attention.scale * (1 if scaled else sqrt(query.shape[-1]))
    logits = (query * scale) @ at_least_float32(attention.key[:, :, start:]).mT
    if bias is not None:
        # A bias that is the same for all keys changes nothing.
        logits = logits + (bias if bias.shape[-1] == 1 else bias[..., start:]).to(logits.dtype)
    return logits.softmax(-1)[..., 0, prefix - start :]


def _of_windows(maps: Float[Tensor, "w h r c"], images: int, shift: tuple[int, int] | None) -> Float[Tensor, "b h i j"]:
    count = len(maps) // images
    side = isqrt(count)
    if shift is None or side * side != count or count * images != len(maps):
        raise InputError(
            f"a layer attends within {len(maps)} windows of {images} images, and where they lie in an image is not "
            "known: maps are put together of the square windows of Swin transformers only; name other layers with "
            "student_layers"
        )
    parts = maps.unflatten(0, (images, side, side)) / count
    whole = parts.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    # An image of one window is not shifted, whatever its layer is called.
    return whole.roll(shift, (2, 3)) if side > 1 and any(shift) else whole


def _grid(attention: Attention) -> tuple[int, int]:
    """Rows and columns of the patches among the keys."""
    _, _, queries, keys = attention.shape
    patches = keys - attention.prefix_tokens
    side = isqrt(max(patches, 0))
    if not attention.in_rows:
        raise InputError(
            f"could not determine how the {patches} patches of these images lie in rows and columns: give square "
            "images, or name other layers with student_layers"
        )
    rows, columns = attention.grid or (side, side)
    if patches < 1 or rows * columns != patches or queries != keys:
        raise InputError(
            f"attention of {queries} queries and {keys} keys, {attention.prefix_tokens} of them before the patches, "
            f"does not fill a grid of {rows}×{columns} patches: name other layers with student_layers"
        )
    return rows, columns
