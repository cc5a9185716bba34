"""Modules that never run themselves: what can be read in their place, or why nothing can."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, fx, nn

from attention_transfer.capture.scoped_hooks import Attached, Hook
from attention_transfer.capture.tap import Tap


@dataclass(frozen=True)
class _Span:
    """A part of a chain of modules, as it ran."""

    first: nn.Module
    last: nn.Module
    taken: Any
    given: Any


@dataclass
class _Calls:
    """What each of some modules takes and gives while a network runs."""

    taken: dict[nn.Module, list[Any]] = field(default_factory=dict[nn.Module, list[Any]])
    given: dict[nn.Module, list[Any]] = field(default_factory=dict[nn.Module, list[Any]])

    def hooks(self, module: nn.Module) -> list[Hook]:
        """What notes the calls of one module."""
        return [Hook(module, self._before, before=True), Hook(module, self._after, before=False)]

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.taken.setdefault(module, []).append(args[0] if args else None)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.given.setdefault(module, []).append(output)

    def span(self, module: nn.Module) -> _Span | None:
        """A module that ran once, or the chain of a sequence's modules that did; None for anything else.

        In a chain each module takes what the one before it gave.
        """
        given = self.given.get(module, [])
        if given:
            return _Span(module, module, self.taken[module][0], given[0]) if len(given) == 1 else None
        if type(module) is not nn.Sequential:
            return None
        spans = [self.span(child) for child in module]
        chain = [span for span in spans if span is not None]
        if not chain or len(chain) < len(spans):
            return None
        linked = all(isinstance(one.given, Tensor) and one.given is other.taken for one, other in pairwise(chain))
        return _Span(chain[0].first, chain[-1].last, chain[0].taken, chain[-1].given) if linked else None


def stand_ins(model: nn.Module, taps: Sequence[Tap], run: Callable[[], object]) -> dict[Tap, nn.Module]:
    """Modules that can be read in place of sequences that are never called, for their modules are run one by one.

    Gradient checkpointing does that. What the last module of a sequence gives is what the sequence would give, where
    each took what the one before it gave.

    Args:
        model: the network.
        taps: outputs and inputs of modules that never ran.
        run: runs the network once.
    """
    modules = dict(model.named_modules())
    sequences = {tap: modules[tap.module] for tap in taps if not tap.is_attention}
    sequences = {tap: module for tap, module in sequences.items() if type(module) is nn.Sequential}
    if not sequences:
        return {}
    calls = _Calls()
    inside = dict.fromkeys(child for module in sequences.values() for child in module.modules())
    hooks = Attached([hook for module in inside for hook in calls.hooks(module)])
    hooks.attach()
    try:
        run()
    finally:
        hooks.remove()
    spans = {tap: calls.span(module) for tap, module in sequences.items()}
    return {tap: span.last if tap.site == "output" else span.first for tap, span in spans.items() if span is not None}


def why_never_run(model: nn.Module, tap: Tap) -> str:
    """Why a module may not have run although the network has it, and what to do."""
    modules = dict(model.named_modules())
    path = tap.module
    while path:
        path = path.rpartition(".")[0]
        if isinstance(modules[path], fx.GraphModule):
            return (
                "its network is a recorded graph (torch.fx, torch.export), which calls other modules or none: give the "
                "network that it was made from, or name a module that the graph calls"
            )
    if isinstance(modules[tap.module], nn.Sequential | nn.ModuleList):
        return (
            "its modules are run one by one, as under gradient checkpointing, and not as a chain: name one of them, or "
            "switch gradient checkpointing off"
        )
    if tap.is_attention:
        return "the network does not use this module in its forward pass, or it makes no such call there"
    return (
        "the network does not use this module in its forward pass, or runs it without calling it (module.forward), as "
        "some gradient checkpointing does: name another module, or switch gradient checkpointing off"
    )
