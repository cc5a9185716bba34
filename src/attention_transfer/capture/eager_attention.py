"""Attention written out, for processors on which torch's fused kernel is the slower one."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attention_transfer.capture.hooks import open_multi_head_attention, without_dispatch

_MOST_ENTRIES = 2**25  # of the maps of one call: 64 MiB in bfloat16


# Torch's own module, and differentiation: checkpointed layers run again inside it.
_ENTERED: Mapping[Callable[..., Any], Callable[..., Any]] = {
    functional.multi_head_attention_forward: open_multi_head_attention,
    **{each: without_dispatch(each) for each in (Tensor.backward, torch.autograd.backward, torch.autograd.grad)},
}


class WrittenOutAttention(TorchFunctionMode):
    """Answers calls of `scaled_dot_product_attention` in bfloat16 with two products and a softmax.

    Calls in other arithmetic, with masks of booleans, dropout or grouped heads, and those whose maps hold more than 2²⁵
    numbers go to torch's own kernel: a map in bfloat16 is kept until the backward pass, so that memory grows with the
    square of the tokens.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ENTERED:
            # While a call is answered its mode is off; what these call inside must be seen too.
            with self:
                return _ENTERED[func](*args, **kwargs)
        if func is functional.scaled_dot_product_attention and _fits(*args, **kwargs):
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _fits(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **others: Any,
) -> bool:
    masked = attn_mask is not None and attn_mask.dtype == torch.bool
    if masked or dropout_p or is_causal or others.get("enable_gqa"):
        return False
    kind = query.device.type
    rounded = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
    if not rounded and any(each.dtype != torch.bfloat16 for each in (query, key, value)):
        return False
    return math.prod(query.shape[:-1]) * key.shape[-2] <= _MOST_ENTRIES


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *others: Any, **named: Any
) -> Tensor:
    scale = named.get("scale")
    logits = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    # A softmax computes in float32 inside; autocast would keep a copy of the map in it as well.
    with torch.autocast(query.device.type, enabled=False):
        weights = (logits if attn_mask is None else logits + attn_mask).softmax(-1)
    return weights.to(value.dtype) @ value
