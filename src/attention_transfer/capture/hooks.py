"""The hooks themselves. Each knows one module, and works only while its network is being read."""

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attention_transfer.capture.attention import Attention
from attention_transfer.capture.patch_grid import patch_grid
from attention_transfer.capture.recorder import Recorder
from attention_transfer.capture.scoped_hooks import Hook
from attention_transfer.capture.tap import CaptureError, Tap, tensor_in

SOFTMAXES = (torch.softmax, Tensor.softmax, functional.softmax)


def hooks_at(module: nn.Module, tap: Tap, recorder: Recorder) -> list[Hook]:
    """What reads a place of one module, and replaces what is read there."""
    if tap.site == "output":
        # What the module's own hooks have made of it is its value.
        return [Hook(module, _OutputHook(recorder, tap), before=False)]
    if tap.site == "input":
        return [Hook(module, _InputHook(recorder, tap), before=True)]
    if tap.site == "map":
        return [Hook(module, _MapHook(recorder, tap), before=True)]
    return [
        Hook(module, _EnterHook(recorder, tap), before=True, first=True),
        # Left also where the network is stopped or fails.
        Hook(module, _LeaveHook(recorder), before=False, always=True),
    ]


class _OutputHook:
    def __init__(self, recorder: Recorder, tap: Tap) -> None:
        self.recorder, self.tap = recorder, tap

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        replaced = self.recorder.here()
        if replaced is None:
            return None
        value: Any = replaced.get(self.tap, tensor_in(output, self.tap.item))
        if self.recorder.active and self.recorder.counts(self.tap):
            self.recorder.record(self.tap, value)
        return value if self.tap in replaced else None


class _InputHook:
    def __init__(self, recorder: Recorder, tap: Tap) -> None:
        self.recorder, self.tap = recorder, tap

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        replaced = self.recorder.here()
        if replaced is None:
            return None
        value: Any = replaced.get(self.tap, tensor_in(_first(args, self.tap), self.tap.item))
        if self.recorder.active and self.recorder.counts(self.tap):
            # An activation that works in place would overwrite what was read.
            self.recorder.record(self.tap, value.clone() if getattr(module, "inplace", False) else value)
        return (value, *args[1:]) if self.tap in replaced else None


class _MapHook(_InputHook):
    """Reads an attention map where a network hands it from one module to the next."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        replaced = self.recorder.here()
        if replaced is None:
            return None
        weights = _first(args, self.tap)
        drops = getattr(module, "p", 0.0) if module.training and isinstance(module, nn.Dropout) else 0.0
        own = _written_out(weights, self.tap, self.recorder.images, drops)
        given = _answer(own, self.tap, self.recorder, replaced)
        return None if given is None else (given.map().to(weights.dtype), *args[1:])


def hooks_around(module: nn.Module, path: str, recorder: Recorder) -> list[Hook]:
    """What tells when a module runs, for what is read in its run alone."""
    return [
        Hook(module, _InsideHook(recorder, path, True), before=True, first=True),
        Hook(module, _InsideHook(recorder, path, False), before=False, always=True),
    ]


class _InsideHook:
    def __init__(self, recorder: Recorder, path: str, enters: bool) -> None:
        self.recorder, self.path, self.enters = recorder, path, enters

    def __call__(self, module: nn.Module, *args: Any) -> None:
        if self.recorder.active and self.recorder.here() is not None:
            self.recorder.inside[self.path] = self.enters


class _EnterHook:
    """Intercepts attention inside one module, from the beginning of its forward pass."""

    def __init__(self, recorder: Recorder, tap: Tap) -> None:
        self.recorder, self.tap = recorder, tap

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        replaced = self.recorder.here()
        if replaced is not None:
            mode = _Interception(self.recorder, self.tap, replaced)
            mode.__enter__()
            self.recorder.modes.append(mode)


class _LeaveHook:
    """Its end."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.recorder.here() is not None and self.recorder.modes:
            self.recorder.modes.pop().__exit__(None, None, None)


class _Interception(TorchFunctionMode):
    """Between a module and torch: sees each call, and answers those of attention."""

    def __init__(self, recorder: Recorder, tap: Tap, replaced: Mapping[Tap, Any]) -> None:
        super().__init__()
        self.recorder, self.tap, self.replaced = recorder, tap, replaced
        self.written_out: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.recorder.modes and self.recorder.modes[-1] is not self:
            # A module inside this one is read too: its calls are its own.
            return func(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            # While a call is answered its mode is off; what torch's own module calls inside must be seen too.
            with self:
                return open_multi_head_attention(*args, **kwargs)
        if self.tap.site == "attention" and func is functional.scaled_dot_product_attention:
            own = fused_call(*args, **kwargs, tap=self.tap, images=self.recorder.images)
            given = _answer(own, self.tap, self.recorder, self.replaced)
            return func(*args, **kwargs) if given is None else given.result()
        if func is functional.dropout and args and args[0] is self.written_out:
            self.recorder.drops(self.tap, _rate(*args, **kwargs))
        result = func(*args, **kwargs)
        if self.tap.site == "softmax" and func in SOFTMAXES:
            self.written_out = result
            own = _written_out(result, self.tap, self.recorder.images)
            given = _answer(own, self.tap, self.recorder, self.replaced)
            return result if given is None else given.map().to(result.dtype)
        return result


def fused_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    tap: Tap,
    images: tuple[int, int, int] | None = None,
) -> Attention:
    """What a call of torch's `scaled_dot_product_attention` computes."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (each.repeat_interleave(groups, -3) for each in (key, value))
    elif key.shape[:-2] != query.shape[:-2]:
        # One head of keys and values may serve all heads of queries.
        key, value = (each.expand(*query.shape[:-2], *each.shape[-2:]) for each in (key, value))
    bias = attn_mask
    if is_causal:
        seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        bias = seen if bias is None else bias
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~bias, float("-inf"))
    return Attention(
        query,
        key,
        value,
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        bias=bias,
        dropout=dropout_p,
        **_lies(tap, query, images),
    )


def _lies(tap: Tap, query: Tensor, images: tuple[int, int, int] | None) -> dict[str, Any]:
    """How the tokens of a call lie, given its queries (or its map) and the number, height and width of the images."""
    number, *sides = images or (query.shape[0], 1, 1)
    grid = patch_grid(query.shape[-2] - tap.prefix_tokens, tap.grid, tap.patch, (sides[0], sides[1])) or tap.grid
    # Windows are squares whatever the image is.
    known = grid is not None or sides[0] == sides[1] or query.shape[0] != number
    return {
        "prefix_tokens": tap.prefix_tokens,
        "grid": grid,
        "in_rows": tap.in_rows and known,
        "class_tokens": tap.class_tokens,
        "window_shift": tap.window_shift,
        "padded": tap.padded,
    }


def _first(args: tuple[Any, ...], tap: Tap) -> Any:
    if not args:
        raise CaptureError(f"{tap} cannot be read: its module is called with named arguments only; name another module")
    return args[0]


def _written_out(weights: Tensor, tap: Tap, images: tuple[int, int, int] | None, dropout: float = 0.0) -> Attention:
    return Attention(weights=weights, dropout=dropout, **_lies(tap, weights, images))


def _answer(own: Attention, tap: Tap, recorder: Recorder, replaced: Mapping[Tap, Any]) -> Attention | None:
    """Record a call, and give what the network goes on with instead; None for its own."""
    if recorder.active and recorder.counts(tap):
        recorder.record(tap, own)
    return replaced[tap](own) if tap in replaced else None


def _rate(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> float:
    """With which probability a call of torch's `dropout` drops anything."""
    return p if training else 0.0


def _nobody(*tensors: Any) -> bool:
    return False


def without_dispatch(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch, entered without asking the modes that are on.

    They would otherwise be given the whole function again, and never what it calls.
    """
    assert isinstance(function, FunctionType)
    asked = {"has_torch_function": _nobody, "has_torch_function_unary": _nobody}
    scope = {**function.__globals__, **asked}
    opened = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


open_multi_head_attention = without_dispatch(functional.multi_head_attention_forward)
