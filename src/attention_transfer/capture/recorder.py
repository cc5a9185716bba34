"""What the hooks of one network share while it runs."""

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attention_transfer.capture.attention import Attention
from attention_transfer.capture.tap import Tap

Replacement = Tensor | Callable[[Attention], Attention]
"""What a network goes on with at a place: a value, or for attention a function of the network's own call."""


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
    """

    active: bool = False
    values: dict[Tap, Tensor] = field(default_factory=dict[Tap, Tensor])
    attention: dict[Tap, Attention] = field(default_factory=dict[Tap, Attention])
    replaced: Mapping[Tap, Replacement] = field(default_factory=dict[Tap, Replacement])
    calls: Counter[Tap] = field(default_factory=Counter[Tap])
    stop_after: tuple[Tap, int] | None = None
    modes: list[TorchFunctionMode | None] = field(default_factory=list[TorchFunctionMode | None])
    differentiated: tuple[int, weakref.ref["_Graph"]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__()

    def record(self, tap: Tap, value: Any) -> None:
        """Keep what was read at a place; called by every hook."""
        # A later call replaces an earlier one: under checkpointing and for modules used twice nothing piles up.
        if isinstance(value, Attention):
            self.attention[tap] = value
        else:
            self.values[tap] = value
        if self.stop_after is not None:
            self.calls[tap] += 1
            if self.stop_after == (tap, self.calls[tap]):
                raise Stop

    def drops(self, tap: Tap, rate: float) -> None:
        """Note that a network drops some weights of a map that it has written out."""
        if self.active and tap in self.attention:
            self.attention[tap] = replace(self.attention[tap], dropout=rate)

    def here(self) -> Mapping[Tap, Replacement] | None:
        """What is replaced in the run that is going on; None where nobody reads or replaces anything."""
        if self.active:
            return self.replaced
        if torch.compiler.is_compiling() or self.differentiated is None:
            return None
        task, graph = self.differentiated
        run = graph()
        return run.replaced if run is not None and task == _backward_pass() else None

    def keep_for_backward(self, logits: Tensor) -> None:
        """Let the replacements of the run that ends live as long as its graph, which owns its hooks."""
        if not self.replaced:
            return
        graph = _Graph(self, self.replaced)
        taken = [logits, *self.values.values()]
        taken += [tensor for call in self.attention.values() for tensor in call.tensors.values()]
        for tensor in taken:
            # A parameter that is read as it is outlives the graph.
            if tensor.grad_fn is not None:
                tensor.register_hook(graph)

    def leave_modes(self) -> None:
        """Leave what an interrupted run has entered: torch calls no hook of a module for what is no Exception."""
        while self.modes:
            mode = self.modes.pop()
            if mode is not None:
                mode.__exit__(None, None, None)


class _Graph:
    """One run of a network with replacements; says so when the backward pass comes to what was taken out of it.

    It lives as long as the graph that holds it as a hook, and with it what was replaced.
    """

    def __init__(self, recorder: Recorder, replaced: Mapping[Tap, Replacement]) -> None:
        self.recorder, self.replaced = recorder, replaced

    def __call__(self, gradient: Tensor) -> None:
        task = _backward_pass()
        if task is not None:
            self.recorder.differentiated = task, weakref.ref(self)


def _backward_pass() -> int | None:
    """A number of the backward pass that this thread is in; None outside."""
    task = torch._C._current_graph_task_id()  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue, reportUnknownVariableType]
    return None if task == -1 else task
