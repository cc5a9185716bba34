"""Reading one network while it runs: the only file with a hook."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attention_transfer.capture.tap import CaptureError, Tap


@dataclass(frozen=True)
class Reading:
    """What was read while a network ran once.

    Args:
        logits: its result; None where it was stopped after the last tap.
        values: one per tap, as the network laid it out.
    """

    logits: Tensor | None
    values: Mapping[Tap, Tensor]


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


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def _no_such_module(path: str, modules: Mapping[str, nn.Module], role: str) -> str:
    parent = path
    while parent and parent not in modules:
        parent = parent.rpartition(".")[0]
    children = [name for name, _ in modules[parent].named_children()]
    listed = ", ".join(children[:20]) + (", …" if len(children) > 20 else "") if children else "no submodules"
    return f"the {role} has no module {path!r}; {repr(parent) if parent else 'its top level'} has {listed}"
