"""Attention of one network in the tokens of another: other grids of patches, other tokens before them.

>>> import torch
>>> resampled_map(torch.full((1, 1, 5, 5), 0.2), 1, (2, 2), (4, 4)).shape
torch.Size([1, 1, 17, 17])
"""

from dataclasses import replace
from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attention_transfer.capture import Attention
from attention_transfer.errors import InputError

Grid = tuple[int, int]


def share_tokens(student: Attention, teacher: Attention) -> tuple[Attention, Attention]:
    """Both calls over the tokens that both networks have: the patches, and the class token where both have one.

    As many tokens before the patches on both sides, a class token among them in both or in neither, count as the same
    ones. Otherwise only the class token is kept, where both have one; the others (distillation, registers) are left out
    as queries and as keys, and each row is normalised over what is left. No map is made where query and key are known.
    """
    if same_prefix(student, teacher):
        return student, teacher
    kept = min(class_tokens(student), class_tokens(teacher))
    return keep_prefix(student, kept), keep_prefix(teacher, kept)


def same_prefix(student: Attention, teacher: Attention) -> bool:
    """Whether the tokens before the patches count as the same ones."""
    ours, theirs = ((each.prefix_tokens, class_tokens(each)) for each in (student, teacher))
    return ours == theirs


def class_tokens(attention: Attention) -> int:
    """1 if the first token is a class token, which it is taken for if unknown; 0 if there is none."""
    known = 1 if attention.class_tokens is None else attention.class_tokens
    return min(known, attention.prefix_tokens)


def keep_prefix(attention: Attention, count: int) -> Attention:
    """The same call with only the first `count` of the tokens before the patches."""
    prefix = attention.prefix_tokens
    if prefix == count:
        return attention

    def cut(value: Tensor, dim: int) -> Tensor:
        # A bias that is the same for all queries has 1 there.
        if value.shape[dim] == 1:
            return value
        first = value.narrow(dim, 0, count)
        return torch.cat([first, value.narrow(dim, prefix, value.shape[dim] - prefix)], dim)

    weights = attention.weights
    if weights is not None:
        weights = cut(cut(weights, -2), -1)
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    bias = attention.bias
    return replace(
        attention,
        query=None if attention.query is None else cut(attention.query, -2),
        key=None if attention.key is None else cut(attention.key, -2),
        value=None if attention.value is None else cut(attention.value, -2),
        bias=None if bias is None else cut(cut(bias, -2), -1),
        weights=weights,
        prefix_tokens=count,
        class_tokens=min(count, class_tokens(attention)),
    )


def check_same_windows(where: str, student: Attention, teacher: Attention) -> None:
    """Refuse calls over other batches: of windows, where a network cuts its images into them.

    Raises:
        ValueError: for other numbers of windows, or windows that lie elsewhere.
    """
    if student.shape[0] != teacher.shape[0]:
        raise InputError(
            f"{where}: the student attends within {student.shape[0]} windows or images, the teacher within "
            f"{teacher.shape[0]}; only networks with the same windows fit each other"
        )
    ours, theirs = student.window_shift, teacher.window_shift
    if student.padded != teacher.padded:
        reaches, fits = ("student", "teacher") if student.padded else ("teacher", "student")
        raise InputError(
            f"{where}: the {reaches}'s windows reach beyond the image and the {fits}'s do not, so that they hold other "
            "patches; take images that a whole number of windows covers"
        )
    if ours != theirs:
        raise InputError(
            f"{where}: the student's windows are shifted by {ours}, the teacher's by {theirs}, so that they hold other "
            "patches; pair layers of the same shift (every other layer of Swin transformers is shifted)"
        )


def check_same_tokens(student: Attention, teacher: Attention, where: str, remedy: str = "set resample") -> None:
    """Refuse calls over different tokens.

    Args:
        student: a layer of it.
        teacher: its partner.
        where: for the message.
        remedy: what to do instead, for the message.

    Raises:
        ValueError: if their numbers, those before the patches or the grids differ, or one of them alone has a class
            token.
    """
    ours, theirs = ((each.shape[2:], _grid(each) if each.in_rows else None) for each in (student, teacher))
    if ours != theirs or not same_prefix(student, teacher):
        raise InputError(
            f"{where}: the student has {_tokens(student)}, the teacher {_tokens(teacher)}: {remedy}, which "
            "keeps the class token and resamples maps to the student's grid"
        )


def patch_grid(attention: Attention) -> Grid:
    """Rows and columns of the patches.

    Raises:
        ValueError: if they are not known and do not fill a square.
    """
    if not attention.in_rows:
        raise InputError(
            f"could not determine how the {attention.num_tokens - attention.prefix_tokens} patches of these images lie "
            "in rows and columns, so that no map of them can be resampled: give square images, or networks of like "
            "patches"
        )
    patches = attention.num_tokens - attention.prefix_tokens
    rows, columns = _grid(attention)
    if patches < 1 or rows * columns != patches or attention.num_keys != attention.num_tokens:
        raise InputError(
            f"attention of {attention.num_tokens} queries and {attention.num_keys} keys, {attention.prefix_tokens} of "
            f"them before the patches, does not fill a grid of {rows}×{columns} patches and cannot be resampled"
        )
    return rows, columns


def resampled(attention: Attention, like: Attention) -> Attention:
    """A call over the grid of another one; itself where both have the same grid, else its resampled map.

    Args:
        attention: to be resampled, with as many tokens before the patches as `like`.
        like: whose grid is wanted.

    Raises:
        ValueError: for tokens that fill no grid.
    """
    grid, wanted = patch_grid(attention), patch_grid(like)
    if grid == wanted:
        return attention
    weights = resampled_map(attention.map(), attention.prefix_tokens, grid, wanted)
    return Attention(
        weights=weights, prefix_tokens=like.prefix_tokens, grid=wanted, class_tokens=attention.class_tokens
    )


def resampled_map(
    weights: Float[Tensor, "b h n n"], prefix_tokens: int, grid: Grid, wanted: Grid
) -> Float[Tensor, "b h m m"]:
    """A map between other patches.

    Bilinear over the grid of keys, then over that of queries (with antialiasing where the grid becomes smaller), each
    row normalised.

    What a query gives to the tokens before the patches keeps its mass, and so do all patches together.

    Args:
        weights: rows sum to 1.
        prefix_tokens: before the patches, the same on both sides.
        grid: rows and columns of its patches.
        wanted: of those of the result.
    """
    keys = _resized(weights[..., prefix_tokens:], grid, wanted)
    mass = weights[..., prefix_tokens:].sum(-1, keepdim=True)
    tiny = torch.finfo(weights.dtype).tiny
    keys = keys * (mass / keys.sum(-1, keepdim=True).clamp_min(tiny))
    weights = torch.cat([weights[..., :prefix_tokens], keys], -1)
    queries = _resized(weights[:, :, prefix_tokens:].mT, grid, wanted).mT
    weights = torch.cat([weights[:, :, :prefix_tokens], queries], 2)
    return weights / weights.sum(-1, keepdim=True).clamp_min(tiny)


def _resized(values: Float[Tensor, "b h n m"], grid: Grid, wanted: Grid) -> Float[Tensor, "b h n k"]:
    images = values.flatten(0, 1).unflatten(-1, grid)
    resized = functional.interpolate(images, wanted, mode="bilinear", align_corners=False, antialias=True)
    return resized.flatten(-2).unflatten(0, values.shape[:2])


def _grid(attention: Attention) -> Grid:
    """As known, or the square that the patches would fill."""
    side = isqrt(max(attention.num_tokens - attention.prefix_tokens, 0))
    return attention.grid or (side, side)


def _tokens(attention: Attention) -> str:
    rows, columns = _grid(attention) if attention.in_rows else ("?", "?")
    known = " (no class token)" if attention.prefix_tokens and not class_tokens(attention) else ""
    prefix = f"{attention.prefix_tokens} of them{known} before a grid of {rows}×{columns} patches"
    return f"{attention.num_tokens} queries and {attention.num_keys} keys, {prefix}"
