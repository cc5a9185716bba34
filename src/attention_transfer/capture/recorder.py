"""What the hooks of one network share while it runs."""

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

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
    be replaced there too, so replacements live as long as the graph that needs them.
    """

    active: bool = False
    values: dict[Tap, Tensor] = field(default_factory=dict[Tap, Tensor])
    attention: dict[Tap, Attention] = field(default_factory=dict[Tap, Attention])
    replaced: Mapping[Tap, Replacement] = field(default_factory=dict[Tap, Replacement])
    calls: Counter[Tap] = field(default_factory=Counter[Tap])
    stop_after: tuple[Tap, int] | None = None
    graphs: list["weakref.ref[_Graph]"] = field(default_factory=list["weakref.ref[_Graph]"])
    differentiated: tuple[int, Mapping[Tap, Replacement]] | None = None

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

    def here(self) -> Mapping[Tap, Replacement] | None:
        """What is replaced in the run that is going on; None where nobody reads or replaces anything.

        Raises:
            RuntimeError: where a checkpointed network runs again and nobody can tell for which of its graphs.
        """
        if self.active:
            return self.replaced
        if torch.compiler.is_compiling() or not self.graphs:
            return None
        task = _backward_pass()
        if task is None:
            return None
        if self.differentiated is not None and self.differentiated[0] == task:
            return self.differentiated[1]
        alive = [graph for graph in (reference() for reference in self.graphs) if graph is not None]
        if len(alive) > 1:
            raise RuntimeError(
                "a checkpointed student in which something is replaced has run twice without a backward pass between, "
                "and no logits in the loss tell the runs apart: call backward before the next step, and let go of its "
                "output, or switch checkpointing off"
            )
        return alive[0].replaced if alive else None

    def keep_for_backward(self, logits: Tensor) -> None:
        """Let the replacements of the run that ends live as long as its graph."""
        self.graphs = [reference for reference in self.graphs if reference() is not None]
        self.differentiated = None
        if self.replaced and logits.requires_grad:
            graph = _Graph(self, self.replaced)
            # The graph owns its hooks.
            logits.register_hook(graph)
            self.graphs.append(weakref.ref(graph))


class _Graph:
    """One run of a network with replacements; says so when the backward pass comes to its logits."""

    def __init__(self, recorder: Recorder, replaced: Mapping[Tap, Replacement]) -> None:
        self.recorder, self.replaced = recorder, replaced

    def __call__(self, gradient: Tensor) -> None:
        task = _backward_pass()
        if task is not None:
            self.recorder.differentiated = task, self.replaced


def _backward_pass() -> int | None:
    """A number of the backward pass that this thread is in; None outside."""
    task = torch._C._current_graph_task_id()  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue, reportUnknownVariableType]
    return None if task == -1 else task
