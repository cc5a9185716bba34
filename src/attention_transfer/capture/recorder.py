"""What the hooks of one network share while it runs."""

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attention_transfer.capture.attention import Attention
from attention_transfer.capture.outputs import Images, sides, tensors_of
from attention_transfer.capture.scoped_hooks import Attached, at_the_end_of_it, current_backward_pass
from attention_transfer.capture.tap import Tap

Replacement = Tensor | Callable[[Attention], Attention]
"""What a network goes on with at a place: a value, or for attention a function of the network's own call."""


_SEVERAL_SIZES = 1, 2


class Stop(Exception):  # noqa: N818
    """Nothing after the last tap needs to run."""


@dataclass
class Recorder:
    """Holds what was read only while the network runs, so that it can be copied between runs.

    Under gradient checkpointing a network runs again inside the backward pass. What was replaced in the first run must
    be replaced there too, so the graph keeps the replacements, and tells which they are when the backward pass comes to
    the first value that was taken out of the run. What ran before it in the same backward pass, and apart from it, is
    taken for a part of it: a checkpointed student in which something is replaced must not also be run by itself for the
    same loss.

    Another thread may run the same modules at the same time: only what the thread of `active` runs is read.
    """

    active: bool = False
    thread: int = 0
    values: dict[Tap, Tensor] = field(default_factory=dict[Tap, Tensor])
    attention: dict[Tap, Attention] = field(default_factory=dict[Tap, Attention])
    replaced: Mapping[Tap, Replacement] = field(default_factory=dict[Tap, Replacement])
    calls: dict[Tap, int] = field(default_factory=dict[Tap, int])
    inside: dict[str, bool] = field(default_factory=dict[str, bool])
    images: tuple[int, int, int] | None = None
    sides: tuple[int, int] | None = None
    stop_after: tuple[Tap, int] | None = None
    modes: list[TorchFunctionMode] = field(default_factory=list[TorchFunctionMode])
    differentiated: tuple[int, weakref.ref["_Graph"]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__()

    def counts(self, tap: Tap) -> bool:
        """Whether this run of a module is one that is read; asked by every hook, once."""
        if tap.within is not None and not self.inside.get(tap.within, True):
            return False
        if tap.call is not None or self.stop_after is not None:
            self.calls[tap] = self.calls.get(tap, 0) + 1
        return tap.call is None or tap.call == self.calls[tap]

    def record(self, tap: Tap, value: Any) -> None:
        """Keep what was read at a place; called by every hook whose run counts."""
        # A later call replaces an earlier one: where several serve one layer, the last is what it hands on.
        if isinstance(value, Attention):
            self.attention[tap] = value
        else:
            self.values[tap] = value
        if self.stop_after is not None and self.stop_after == (tap, self.calls[tap]):
            raise Stop

    def drops(self, tap: Tap, rate: float) -> None:
        """Note that a network drops some weights of a map that it has written out."""
        if self.active and tap in self.attention:
            self.attention[tap] = replace(self.attention[tap], dropout=rate)

    def begin(self, replaced: Mapping[Tap, Replacement], images: Images, owners: Iterable[str]) -> None:
        """Read from now on what this thread runs.

        Args:
            replaced: in this run.
            images: that the network is given.
            owners: modules in whose run alone something is read.
        """
        self.values, self.attention, self.replaced = {}, {}, replaced
        # No grid of patches follows from images of several sizes.
        self.sides = sides(images)
        height, width = self.sides or _SEVERAL_SIZES
        self.calls, self.images = {}, (len(images), height, width)
        self.inside = dict.fromkeys(owners, False)
        if not torch.compiler.is_compiling():
            self.thread = threading.get_ident()
        self.active = True

    def here(self) -> Mapping[Tap, Replacement] | None:
        """What is replaced in the run that is going on; None where nobody reads or replaces anything."""
        if torch.compiler.is_compiling():
            return self.replaced if self.active else None
        if self.active and self.thread == threading.get_ident():
            return self.replaced
        if self.differentiated is None:
            return None
        number, graph = self.differentiated
        run = graph()
        return run.replaced if run is not None and number == current_backward_pass() else None

    def keep_for_backward(self, output: Any, hooks: Attached) -> None:
        """Let the replacements of the run that ends live as long as its graph, which owns its hooks.

        Args:
            output: of the run, as the network returns it.
            hooks: that are put on again where the backward pass may run parts of the network again.
        """
        if not self.replaced:
            return
        graph = _Graph(self, self.replaced, hooks)
        taken = [*tensors_of(output), *self.values.values()]
        taken += [tensor for call in self.attention.values() for tensor in call.tensors.values()]
        for tensor in taken:
            # A parameter that is read as it is outlives the graph.
            if tensor.grad_fn is not None:
                tensor.register_hook(graph)

    def leave_modes(self) -> None:
        """Leave what an interrupted run has entered: torch calls no hook of a module for what is no Exception."""
        while self.modes:
            self.modes.pop().__exit__(None, None, None)


class _Graph:
    """One run of a network with replacements; says so when the backward pass comes to what was taken out of it.

    It lives as long as the graph that holds it as a hook, and with it what was replaced.
    """

    def __init__(self, recorder: Recorder, replaced: Mapping[Tap, Replacement], hooks: Attached) -> None:
        self.recorder, self.replaced, self.hooks = recorder, replaced, hooks

    def __call__(self, gradient: Tensor) -> None:
        if not self._is_entered():
            self.hooks.attach()
            at_the_end_of_it(self._leave)
            # A backward pass that fails does not come to its end.
            weakref.finalize(self, self.hooks.remove).atexit = False
            number = current_backward_pass()
            if number is not None:
                self.recorder.differentiated = number, weakref.ref(self)

    def _is_entered(self) -> bool:
        number, graph = self.recorder.differentiated or (None, None)
        return number is not None and number == current_backward_pass() and graph is not None and graph() is self

    def _leave(self) -> None:
        self.recorder.differentiated = None
        self.hooks.remove()
