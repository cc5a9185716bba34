"""The cross-entropy between two attentions with a small piece of their maps at a time."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attention_transfer.errors import InputError

# Elements of the piece of a map that is made at a time. On a CPU it should stay in the cache of a core (2¹⁸ to 2²⁰ are
# equally fast from 65 to 1,370 tokens); an accelerator wants more work per kernel.
_CPU_PIECE = 2**18
_DEVICE_PIECE = 2**24


def elements_at_once(device: torch.device) -> int:
    """Elements that are best computed at a time on a device: a CPU's fit into the cache of a core."""
    return _CPU_PIECE if device.type == "cpu" else _DEVICE_PIECE


# Above so many keys the gradient is computed in the backward pass, where it is used at once, instead of together with
# the value, from which on it would be kept: a third slower, and a tenth of the memory of a training step less.
_LONG = 512


class Softmax(NamedTuple):
    """A map as its parts: softmax(scale · query · keyᵀ + bias), or the map itself.

    Args:
        query: with `key`, or None.
        key: with `query`, or None.
        bias: of four dimensions, of which the first three may be 1.
        weights: the map; of its first three dimensions any may be 1.
        scale: of the logits.
    """

    query: Float[Tensor, "b h n d"] | None
    key: Float[Tensor, "b h m d"] | None
    bias: Float[Tensor, "b h n m"] | None = None
    weights: Float[Tensor, "b h n m"] | None = None
    scale: float = 1.0


def chunked_cross_entropy(student: Softmax, teacher: Softmax, *, recompute: bool | None = None) -> Float[Tensor, ""]:
    """Mean over batch, heads and queries of −Σ_key P_t log P_s, of which no more than a piece exists at any time.

    The gradients of the student's query, key and bias are computed piece by piece as well: dq = s (P_s − P_t) k and
    dk = s (P_s − P_t)ᵀ q, divided by the number of queries. They cannot be differentiated once more, and the teacher
    receives none.

    Args:
        student: with query and key.
        teacher: same as `student`, of any head size, or its map.
        recompute: gradients in the backward pass, from new pieces, instead of together with the value; None chooses by
            the number of keys.
    """
    query, key = _both(student)
    own = query, key, student.bias
    wanted = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in own)
    late = key.shape[2] > _LONG if recompute is None else recompute
    theirs = teacher.query, teacher.key, teacher.bias, teacher.weights
    return _Chunked.apply(*own, *theirs, student.scale, teacher.scale, wanted, late)  # pyright: ignore[reportReturnType]


def log_normaliser(query: Float[Tensor, "b h n d"], key: Float[Tensor, "b h m d"], scale: float) -> Float[Tensor, ""]:
    """Mean over batch, heads and queries of log Σ_key exp(scale·query·key), piece by piece and without a gradient."""
    kind = torch.promote_types(query.dtype, torch.float32)
    sums: list[Tensor] = []
    with torch.no_grad():
        for block, all_rows in pieces(query, key):
            keys = _at(key, block, kind).mT
            for rows in all_rows:
                sums.append((_at(query, (*block, rows), kind) * scale @ keys).logsumexp(-1).sum())
    return torch.stack(sums).sum() / query[..., 0].numel()


def pieces(query: Tensor, key: Tensor) -> Iterator[tuple[tuple[slice, slice], list[slice]]]:
    """How a map is divided: some examples and heads at a time, and of these some queries at a time.

    A piece has at most 2¹⁸ elements on a CPU and 2²⁴ elsewhere, or is a single row.
    """
    batch, heads, queries, _ = query.shape
    rows = max(1, elements_at_once(query.device) // key.shape[2])
    examples, some_heads, some_rows = max(1, rows // (heads * queries)), max(1, rows // queries), min(rows, queries)
    for example in range(0, batch, examples):
        for head in range(0, heads, some_heads):
            block = slice(example, example + examples), slice(head, head + some_heads)
            yield block, [slice(row, row + some_rows) for row in range(0, queries, some_rows)]


def only_once(gradients: Sequence[Tensor | None], *inputs: Tensor) -> list[Tensor | None]:
    """Gradients whose own derivative raises an error, instead of counting as zero, where a graph of them is made.

    Args:
        gradients: computed without a graph.
        inputs: what they were computed from.
    """
    if not torch.is_grad_enabled():
        return list(gradients)
    return [None if each is None else _NoFurther.apply(each, *inputs) for each in gradients]  # pyright: ignore[reportReturnType]


class _NoFurther(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        del ctx, inputs
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx, gradients
        raise RuntimeError('attention cross-entropy has a second derivative only in the form "explicit"')


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        bias: Tensor | None,
        teacher_query: Tensor | None,
        teacher_key: Tensor | None,
        teacher_bias: Tensor | None,
        teacher_weights: Tensor | None,
        scale: float,
        teacher_scale: float,
        wanted: bool,
        late: bool,
    ) -> Tensor:
        student = Softmax(query, key, bias, None, scale)
        teacher = Softmax(teacher_query, teacher_key, teacher_bias, teacher_weights, teacher_scale)
        ctx.bias_wanted, ctx.late, ctx.scales = ctx.needs_input_grad[2], late, (scale, teacher_scale)
        ctx.bias_type = query.dtype if bias is None else bias.dtype
        # Kept, they are of the query's own type; made late, they are used at once and may be wider.
        kind = query.dtype if wanted and not late else None
        value, gradients = _in_pieces(student, teacher, kind, ctx.bias_wanted)
        if late and wanted:
            ctx.save_for_backward(query, key, bias, teacher_query, teacher_key, teacher_bias, teacher_weights)
        else:
            ctx.save_for_backward(query, key, *gradients)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        query, key, *found = ctx.saved_tensors
        with torch.no_grad():
            if ctx.late:
                bias, teacher_query, teacher_key, teacher_bias, teacher_weights = found
                scale, teacher_scale = ctx.scales
                student = Softmax(query, key, bias, None, scale)
                teacher = Softmax(teacher_query, teacher_key, teacher_bias, teacher_weights, teacher_scale)
                kind = torch.promote_types(query.dtype, torch.float32)
                _, found = _in_pieces(student, teacher, kind, ctx.bias_wanted)
            factor = gradient / query[..., 0].numel()
            types = query.dtype, key.dtype, ctx.bias_type
            found = [_times(each, factor, kind) for each, kind in zip(found, types, strict=True)]
        return *only_once(found, query, key), *[None] * 8


def _times(gradient: Tensor | None, factor: Tensor, kind: torch.dtype) -> Tensor | None:
    # A loss that is scaled for half precision fits no half itself, nor do its gradients before they are scaled.
    return None if gradient is None else (gradient.to(factor.dtype) * factor).to(kind)


def _in_pieces(
    student: Softmax, teacher: Softmax, wanted: torch.dtype | None, bias_wanted: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """The value, and the gradients of query, key and bias times the number of queries, which half precision can hold.

    Args:
        student: with query and key.
        teacher: same as `student`, or its map.
        wanted: type of the gradients of query and key; None for no gradients.
        bias_wanted: whether that of the bias is wanted too, which is float32 or better.
    """
    query, key = _both(student)
    kind = torch.promote_types(query.dtype, torch.float32)
    count = query[..., 0].numel()
    d_query, d_key = (None if wanted is None else torch.empty_like(each, dtype=wanted) for each in (query, key))
    d_bias = None
    if wanted is not None and bias_wanted and student.bias is not None:
        d_bias = torch.zeros_like(student.bias, dtype=kind)
    sums: list[Tensor] = []
    for block, all_rows in pieces(query, key):
        keys = _at(key, block, kind)
        teacher_keys = None if teacher.key is None else _at(teacher.key, block, kind).mT
        d_keys = None if wanted is None else torch.zeros_like(keys)
        for rows in all_rows:
            piece = *block, rows
            queries = _at(query, piece, kind) * student.scale
            ours = torch.log_softmax(_logits(queries, keys.mT, student.bias, piece), -1)
            theirs = _teacher_piece(teacher, teacher_keys, piece, kind).expand_as(ours)
            sums.append(torch.dot(theirs.flatten(), ours.flatten()))
            if d_query is None or d_keys is None:
                continue
            difference = ours.exp_().sub_(theirs)
            del ours, theirs
            d_query[piece] = (difference @ keys) * student.scale
            d_keys += difference.mT @ queries
            if d_bias is not None:
                place = _place(d_bias, piece)
                d_bias[place] += difference.sum_to_size(d_bias[place].shape)
        if d_key is not None and d_keys is not None:
            d_key[block] = d_keys
    return -torch.stack(sums).sum() / count, [d_query, d_key, d_bias]


def _logits(queries: Tensor, keys: Tensor, bias: Tensor | None, piece: tuple[slice, ...]) -> Tensor:
    logits = queries @ keys
    if bias is not None:
        logits += _at(bias, piece, logits.dtype)
        # Zero times minus infinity is not a number.
        logits.clamp_(min=torch.finfo(logits.dtype).min)
    return logits


def _teacher_piece(
    teacher: Softmax, keys: Tensor | None, piece: tuple[slice, slice, slice], kind: torch.dtype
) -> Tensor:
    if teacher.weights is not None:
        return _at(teacher.weights, piece, kind)
    assert teacher.query is not None
    assert keys is not None
    return torch.softmax(_logits(_at(teacher.query, piece, kind) * teacher.scale, keys, teacher.bias, piece), -1)


def _at(value: Tensor, piece: tuple[slice, ...], kind: torch.dtype) -> Tensor:
    """A piece of a tensor, in one stretch of memory, so that no product copies it again."""
    return value[_place(value, piece)].to(kind).contiguous()


def _place(value: Tensor, piece: tuple[slice, ...]) -> tuple[slice, ...]:
    """The piece, with everything where a dimension is 1 because it is the same for all."""
    return tuple(slice(None) if size == 1 else part for size, part in zip(value.shape, piece, strict=False))


def _both(softmax: Softmax) -> tuple[Tensor, Tensor]:
    if softmax.query is None or softmax.key is None:
        raise InputError("the student's query and key are needed, not its map")
    return softmax.query, softmax.key
