"""How far a student's attention is from a teacher's, computed with or without their maps.

>>> import torch
>>> from attention_transfer.capture import Attention
>>> query, key, value = torch.rand(3, 2, 1, 4, 8).unbind()
>>> attention = Attention(query, key, value, scale=8**-0.5)
>>> float(attention_cross_entropy(attention, attention)) > 0  # at least the entropy of the maps
True
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attention_transfer.capture import Attention
from attention_transfer.errors import InputError
from attention_transfer.methods.attention_maps.chunks import Softmax, chunked_cross_entropy, log_normaliser, only_once
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.methods.soft_targets import check_temperature

Form = Literal["auto", "explicit", "chunked", "fused"]


def attention_cross_entropy(
    student: Attention, teacher: Attention, *, temperature: float = 1.0, form: Form = "auto"
) -> Float[Tensor, ""]:
    """Mean over batch, heads and queries of −Σ_key P_t log P_s, the cross-entropy between two attention maps.

    Section 3.2 of Li et al. (NeurIPS 2024, arXiv:2411.09702), for one layer. All forms give the same value and the same
    gradient; they differ in what they keep:

    - `explicit` makes both maps whole and leaves the gradient to autograd. The only one that also differentiates the
      teacher, and that can be differentiated twice.
    - `chunked` makes a small piece of them at a time, and the gradient piece by piece.
    - `fused` makes none: P_t k_s = sdpa(q_t, k_t, k_s), dq_s = s (P_s k_s − P_t k_s) and dk_s = s (P_s − P_t)ᵀ q_s by
      torch's fused kernels, and the normaliser of the reported value in chunks. Where torch has no fused kernel for a
      device and type (float64 on CUDA), it falls back to maps of its own.
    - `auto` is `chunked` wherever it can be, and `explicit` where the student's map was given instead of its query and
      key, or where the teacher is differentiated.

    Args:
        student: with a gradient; a bias that is learned receives one too.
        teacher: of as many heads, queries and keys; of any head size. A map may have 1 in place of the batch, the heads
            or the queries and counts for all of them then.
        temperature: above 0; divides the logits of both. Maps that were given are raised to its inverse and normalised.
        form: how it is computed.

    Returns:
        In float32, or float64 where the student's is.

    Raises:
        ValueError: for shapes that do not fit, or a form that cannot do what is asked.
    """
    check_temperature(temperature)
    _check_shapes(student, teacher)
    chosen = form
    if form == "auto":
        chosen = "explicit" if student.weights is not None or is_learned(teacher) else "chunked"
    elif form != "explicit":
        _check_form(student, teacher, form)
    tensor = student.query if student.query is not None else student.weights
    assert tensor is not None
    # Whatever the networks were run in, a loss is float32.
    with torch.autocast(tensor.device.type, enabled=False):
        student, teacher = tempered(student, temperature), tempered(teacher, temperature)
        if chosen == "explicit":
            return _explicit(student, teacher)
        ours, theirs = _softmax(student), _softmax(teacher)
        return chunked_cross_entropy(ours, theirs) if chosen == "chunked" else _fused(ours, theirs)


def tempered(attention: Attention, temperature: float) -> Attention:
    """The same call with logits divided by a temperature; a map that was given is raised to its inverse, normalised."""
    if temperature == 1:
        return attention
    if attention.weights is not None:
        return replace(attention, weights=torch.softmax(log_map(attention) / temperature, -1))
    bias = None if attention.bias is None else attention.bias / temperature
    return replace(attention, scale=attention.scale / temperature, bias=bias)


def log_map(attention: Attention) -> Float[Tensor, "b h n m"]:
    """Logarithms of the map, explicitly, in float32 or better; finite for a map that was given."""
    if attention.weights is None:
        return torch.log_softmax(attention.logits(), -1)
    weights = at_least_float32(attention.weights)
    return weights.clamp_min(torch.finfo(weights.dtype).tiny).log()


def is_learned(attention: Attention) -> bool:
    """Whether anything of a call receives a gradient."""
    tensors = attention.query, attention.key, attention.bias, attention.weights
    return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)


def _explicit(student: Attention, teacher: Attention) -> Tensor:
    ours, theirs = log_map(student), teacher.map()
    if student.bias is not None:
        # What neither may see is no difference: zero times minus infinity is not a number.
        ours = ours.masked_fill(theirs == 0, 0.0)
    return -(theirs * ours).sum(-1).mean()


def _softmax(attention: Attention) -> Softmax:
    if attention.weights is not None:
        return Softmax(None, None, weights=attention.weights)
    # Four dimensions; masks of two or three are the same for all examples, or for all heads as well.
    bias = None if attention.bias is None else attention.bias[(None,) * (4 - attention.bias.ndim)]
    return Softmax(attention.query, attention.key, bias, scale=attention.scale)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        teacher_query: Tensor,
        teacher_key: Tensor,
        bias: Tensor | None,
        scale: float,
        teacher_scale: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, teacher_query, teacher_key, bias)
        ctx.scales = scale, teacher_scale
        student, teacher = (
            Softmax(query, key, scale=scale),
            Softmax(teacher_query, teacher_key, bias, None, teacher_scale),
        )
        return log_normaliser(query, key, scale) - _agreement(student, teacher, key)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        query, key, teacher_query, teacher_key, bias = ctx.saved_tensors
        scale, teacher_scale = ctx.scales
        teacher = Softmax(teacher_query, teacher_key, bias, None, teacher_scale)
        with torch.enable_grad():
            own = [at_least_float32(each.detach()).requires_grad_() for each in (query, key)]
            slopes = torch.autograd.grad(_same_gradient(Softmax(*own, scale=scale), teacher), own)
        with torch.no_grad():
            # Neither a loss that is scaled for half precision nor a gradient that is not would fit into it.
            pairs = zip(slopes, (query, key), strict=True)
            found = [(each * gradient.to(each.dtype)).to(one.dtype) for each, one in pairs]
        return *only_once(found, query, key), *[None] * 5


def _fused(student: Softmax, teacher: Softmax) -> Tensor:
    assert student.query is not None
    assert student.key is not None
    if torch.compiler.is_compiling():
        # A compiled graph cannot differentiate inside a backward pass, and differentiates nothing twice.
        value = log_normaliser(student.query, student.key, student.scale)
        with torch.no_grad():
            value = value - _agreement(student, teacher, student.key)
        slope = _same_gradient(student, teacher)
        return value + slope - slope.detach()
    return _Fused.apply(*student[:2], *teacher[:3], student.scale, teacher.scale)  # pyright: ignore[reportReturnType]


def _same_gradient(student: Softmax, teacher: Softmax) -> Tensor:
    """Another value, of the same gradient: with P held constant, s⟨q, P k⟩ has that of the normaliser."""
    assert student.query is not None
    assert student.key is not None
    constant = student._replace(query=student.query.detach(), key=student.key.detach())
    return _agreement(student, constant, student.key) - _agreement(student, teacher, student.key)


def _agreement(student: Softmax, softmax: Softmax, value: Tensor) -> Tensor:
    """Mean over batch, heads and queries of s⟨q, P·value⟩, for the student's s and q, in float32 or better."""
    assert student.query is not None
    assert softmax.query is not None
    assert softmax.key is not None
    query, value = at_least_float32(student.query), at_least_float32(value)
    theirs, keys = softmax.query.to(query.dtype), softmax.key.to(query.dtype)
    # Fused kernels want one head size for all three, a multiple of eight; zeros change neither logits nor results.
    size = -(-max(theirs.shape[-1], value.shape[-1]) // 8) * 8
    padded = [functional.pad(each, (0, size - each.shape[-1])) for each in (theirs, keys, value)]
    bias = None if softmax.bias is None else softmax.bias.to(query.dtype)
    result = functional.scaled_dot_product_attention(*padded, attn_mask=bias, scale=softmax.scale)
    return (query * result[..., : value.shape[-1]]).sum(-1).mean() * student.scale


def _check_shapes(student: Attention, teacher: Attention) -> None:
    given = teacher.weights is not None
    for i, (name, way) in enumerate((
        ("batch", "run both on the same images"),
        ("heads", "match them first (head_match=)"),
        ("queries", "resample them first (resample=)"),
        ("keys", "resample them first (resample=)"),
    )):
        ours, theirs = student.shape[i], teacher.shape[i]
        if ours != theirs and not (given and theirs == 1 and name != "keys"):
            raise InputError(
                f"attention maps must have the same {name}: the student has {ours}, the teacher {theirs}; {way}"
            )


def _check_form(student: Attention, teacher: Attention, form: Form) -> None:
    if is_learned(teacher):
        raise InputError(f'the form "{form}" gives the teacher no gradient; use "explicit"')
    if student.weights is not None:
        raise InputError(
            f'the form "{form}" needs query and key of the student, of which only the map is known; use "explicit"'
        )
    if form == "fused" and (student.bias is not None or teacher.weights is not None):
        what = "a bias of the student" if student.bias is not None else "a teacher of which only the map is known"
        raise InputError(f'the form "fused" cannot take {what}; use "chunked"')
