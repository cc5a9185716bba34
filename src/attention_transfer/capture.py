"""All reading of networks happens here: the only file with a hook."""

import random
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Layout = Literal["nchw", "nhwc", "tokens"]


class CaptureError(ValueError):
    """A network cannot be read as asked; raised when a distiller is built, never in a step."""


@dataclass(frozen=True)
class Tap:
    """A place in a network where a value is read while it runs.

    Args:
        module: dotted path of a submodule, as in `named_modules()`.
        site: its `output`, or its first positional `input` (the way to read a value before the activation that
            follows). A module called several times in one forward counts with its last call.
        layout: how the value is laid out: `nchw`, `nhwc`, or `tokens` (batch, prefix + h·w, channels). A value of three
            dimensions always counts as tokens, one of four dimensions never.
        prefix_tokens: tokens before those of the patches (class, distillation, registers); only for `tokens`.
        grid: rows and columns of the patches; None means a square grid; only for `tokens`.
    """

    module: str
    site: Literal["output", "input"] = "output"
    layout: Layout = "nchw"
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.module if self.site == "output" else f"input of {self.module}"


@dataclass(frozen=True)
class Reading:
    """What was read while a network ran once.

    Args:
        logits: its result; None where it was stopped after the last tap.
        values: one per tap, as the network laid it out.
    """

    logits: Tensor | None
    values: Mapping[Tap, Tensor]


def spatial(value: Tensor, tap: Tap) -> Float[Tensor, "b c h w"]:
    """A captured value as (batch, channels, height, width), whatever the network's layout; a view, prefix tokens
    dropped.

    Raises:
        CaptureError: if it has neither three nor four dimensions, or its tokens do not fill a grid.
    """
    if value.ndim == 4:
        return value.permute(0, 3, 1, 2) if tap.layout == "nhwc" else value
    if value.ndim != 3:
        raise CaptureError(
            f"{tap} gives a value of shape {tuple(value.shape)}; wanted are 4 dimensions, "
            "or 3 for tokens: name another layer"
        )
    patches = value.shape[1] - tap.prefix_tokens
    rows, columns = tap.grid or (isqrt(max(patches, 0)),) * 2
    if patches < 1 or rows * columns != patches:
        raise CaptureError(
            f"{tap} gives {value.shape[1]} tokens, {tap.prefix_tokens} of them before the patches; the rest do not "
            f"fill a grid of {rows}×{columns}"
        )
    return value[:, tap.prefix_tokens :].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)


class _Stop(Exception):  # noqa: N818
    """Nothing after the last tap needs to run."""


@dataclass
class _Recorder:
    """What the hooks of one network share. Holds tensors only while the network runs, so that it can be copied."""

    active: bool = False
    values: dict[Tap, Tensor] = field(default_factory=dict[Tap, Tensor])
    replaced: Mapping[Tap, Tensor] = field(default_factory=dict[Tap, Tensor])
    calls: Counter[Tap] = field(default_factory=Counter[Tap])
    stop_after: tuple[Tap, int] | None = None

    def record(self, tap: Tap, value: Any) -> None:
        # A later call replaces an earlier one: under checkpointing and for modules used twice nothing piles up.
        self.values[tap] = value
        if self.stop_after is not None:
            self.calls[tap] += 1
            if self.stop_after == (tap, self.calls[tap]):
                raise _Stop


class _OutputHook:
    def __init__(self, recorder: _Recorder, tap: Tap) -> None:
        self.recorder, self.tap = recorder, tap

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self.recorder.active:
            return None
        if self.tap in self.recorder.replaced:
            output = self.recorder.replaced[self.tap]
        self.recorder.record(self.tap, output)
        return output


class _InputHook:
    def __init__(self, recorder: _Recorder, tap: Tap) -> None:
        self.recorder, self.tap = recorder, tap

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        if not self.recorder.active:
            return None
        value = self.recorder.replaced.get(self.tap, args[0])
        # An activation that works in place would overwrite what was read.
        self.recorder.record(self.tap, value.clone() if getattr(module, "inplace", False) else value)
        return (value, *args[1:]) if self.tap in self.recorder.replaced else None


class Capture:
    """Reads one network at named places while it runs. The network stays what it is; `close()` leaves no trace.

    Args:
        model: any network.
        taps: places to read.
        role: `teacher` or `student`, for messages.

    Raises:
        CaptureError: for a module that does not exist.
    """

    def __init__(self, model: nn.Module, taps: Iterable[Tap], role: str) -> None:
        self.model = model
        self.role = role
        self.taps = tuple(dict.fromkeys(taps))
        self._recorder = _Recorder()
        self._handles: list[RemovableHandle] = []
        self._last: tuple[Tap, int] | None = None
        modules = dict(model.named_modules())
        for tap in self.taps:
            if tap.module not in modules:
                raise CaptureError(_no_such_module(tap.module, modules, role))
        for tap in self.taps:
            module = modules[tap.module]
            # The first of its hooks, so that the value is the module's own, whatever other hooks make of it.
            handle = (
                module.register_forward_hook(_OutputHook(self._recorder, tap))
                if tap.site == "output"
                else module.register_forward_pre_hook(_InputHook(self._recorder, tap))
            )
            self._handles.append(handle)

    def run(
        self, image: Tensor, *, until_last_tap: bool = False, replaced: Mapping[Tap, Tensor] | None = None
    ) -> Reading:
        """Run the network once.

        Args:
            image: its input.
            until_last_tap: stop after the last tap; needs a `probe` before. Ignored while compiling, where what nothing
                reads is left out of the graph anyway.
            replaced: values that the network goes on with in place of its own.
        """
        recorder = self._recorder
        recorder.values, recorder.replaced = {}, replaced or {}
        recorder.active = True
        if torch.compiler.is_compiling():
            logits = as_logits(self.model(image), self.role)
            recorder.active = False
        else:
            recorder.calls.clear()
            recorder.stop_after = self._last if until_last_tap else None
            try:
                logits = as_logits(self.model(image), self.role)
            except _Stop:
                logits = None
            finally:
                recorder.active = False
                values, recorder.values, recorder.replaced = recorder.values, {}, {}
            return Reading(logits, values)
        values, recorder.values, recorder.replaced = recorder.values, {}, {}
        return Reading(logits, values)

    def probe(self, image: Tensor, *, gradient: bool, replaced: Mapping[Tap, Tensor] | None = None) -> Reading:
        """Run the network once and prove that every tap gives what it promises.

        Args:
            image: noise of the shape that training will have.
            gradient: whether what is read must carry a gradient.
            replaced: as in `run`.

        Raises:
            CaptureError: for a tap that never fired, gives no tensor, is overwritten in place, does not fit its layout
                or carries no gradient.
        """
        order: list[Tap] = []
        versions: dict[Tap, int] = {}
        record = self._recorder.record

        def watch(tap: Tap, value: Any) -> None:
            if not isinstance(value, Tensor):
                raise CaptureError(
                    f"{tap} of the {self.role} gives a {type(value).__name__}, not a tensor; name a module inside it"
                )
            order.append(tap)
            versions[tap] = _version(value)
            record(tap, value)

        self._recorder.record = watch
        try:
            reading = self.run(image, replaced=replaced)
        except CaptureError:
            raise
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            # Whatever a network objects to: a size it was not built for, a number of channels.
            raise CaptureError(
                f"the {self.role} cannot run on images of shape {tuple(image.shape)}, {image.dtype}: {error}"
            ) from error
        finally:
            self._recorder.record = record
        for tap in self.taps:
            if tap not in reading.values:
                raise CaptureError(
                    f"{tap} of the {self.role} never ran; its network was compiled before (compile the distiller "
                    "instead), or it does not use this module in its forward pass"
                )
            value = reading.values[tap]
            if _version(value) != versions[tap]:
                raise CaptureError(
                    f"{tap} of the {self.role} is overwritten in place after it was read; read the input of the module "
                    "that overwrites it (pre-activation), or build that module with inplace=False"
                )
            if gradient and not value.requires_grad and tap not in (replaced or {}):
                raise CaptureError(
                    f"{tap} of the {self.role} carries no gradient, so nothing could be learned there: its parameters "
                    "are frozen, it is detached, or checkpointed with use_reentrant=True (use use_reentrant=False)"
                )
        self._last = (order[-1], order.count(order[-1])) if order else None
        return reading

    def close(self) -> None:
        """Take every hook off the network."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def as_logits(output: Any, role: str) -> Tensor:
    """The logits in what a network returns: the tensor itself, or its `logits`.

    Raises:
        CaptureError: if there is no tensor of (batch, classes) in it.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise CaptureError(f"the {role} returns a {type(output).__name__}{shape}; wanted is a tensor (batch, classes)")
    return logits


@contextmanager
def undisturbed(*models: nn.Module) -> Generator[None]:
    """Whatever runs inside leaves buffers, modes, gradients' absence and random generators as they were."""
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for model in models
        for module in model.modules()
        for name, buffer in module._buffers.items()  # pyright: ignore[reportPrivateUsage]
        if buffer is not None
    ]
    modes = [(module, module.training) for model in models for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    devices = {tensor.device for model in models for tensor in (*model.parameters(), *model.buffers())}
    accelerators = sorted({device.index or 0 for device in devices if device.type not in ("cpu", "meta")})
    kind = next((device.type for device in devices if device.type not in ("cpu", "meta")), "cuda")
    try:
        with torch.random.fork_rng(devices=accelerators, device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)  # pyright: ignore[reportPrivateUsage]


def noise(example: Tensor, least: int = 2) -> Tensor:
    """Seeded noise of the example's shape, type and device, for at least two images (batch norm needs them)."""
    shape = (max(least, example.shape[0]), *example.shape[1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(example.device, example.dtype)


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def _no_such_module(path: str, modules: Mapping[str, nn.Module], role: str) -> str:
    parent = path
    while parent and parent not in modules:
        parent = parent.rpartition(".")[0]
    children = [name for name, _ in modules[parent].named_children()]
    listed = ", ".join(children[:20]) + (", …" if len(children) > 20 else "") if children else "no submodules"
    return f"the {role} has no module {path!r}; {repr(parent) if parent else 'its top level'} has {listed}"
