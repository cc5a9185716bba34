"""Hooks that are on a network only while it runs, so that copies and files of it never hold any."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

from torch import nn
from torch.utils.hooks import RemovableHandle

from attention_transfer.capture.private_names import HOOK_TABLES as TABLES
from attention_transfer.capture.private_names import ask_end, ask_number

_numbers = count(1)
_entered = threading.local()


def current_backward_pass() -> int | None:
    """A number of the backward pass that this thread is in; None outside.

    Where torch does not number them, those in which `at_the_end_of_it` was called have numbers of our own.
    """
    if ask_number is None:
        return getattr(_entered, "number", None)
    number = ask_number()
    return None if number == -1 else number


def at_the_end_of_it(run: Callable[[], object]) -> None:
    """Have something run when the backward pass ends that this thread is in, if this version of torch says so."""
    if ask_end is None:
        return
    if getattr(_entered, "number", None) is None:
        _entered.number = next(_numbers)

    def leave() -> None:
        _entered.number = None
        run()

    ask_end(leave)


def backward_passes_are_told_apart() -> bool:
    """Whether it can be known what runs again in which backward pass."""
    return ask_number is not None or ask_end is not None


@dataclass(frozen=True)
class Hook:
    """One hook, and where it goes.

    Args:
        module: that it watches.
        run: called as torch calls a forward hook, or a forward pre-hook.
        before: whether it sees what the module takes; else what it gives.
        first: whether it runs in front of the hooks that are there; else it sees what they have made of the value.
        always: whether it also runs where the module fails.
    """

    module: nn.Module
    run: Callable[..., Any]
    before: bool
    first: bool = False
    always: bool = False

    def attach(self) -> RemovableHandle:
        """Put it on its module."""
        if self.before:
            return self.module.register_forward_pre_hook(self.run, prepend=self.first)
        return self.module.register_forward_hook(self.run, always_call=self.always)


class Attached:
    """The hooks of one reader of a network.

    Without a trace between its runs: whoever copies or saves the network then has nothing of them, and the handles of
    other hooks stay valid.

    Args:
        hooks: in the order in which those of one module run.
    """

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = tuple(hooks)
        self._tables = tuple(_Tables(module, hooks) for module in dict.fromkeys(hook.module for hook in hooks))
        self._handles: list[RemovableHandle] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_handles": []}

    @property
    def modules(self) -> frozenset[nn.Module]:
        """Those that are watched."""
        return frozenset(hook.module for hook in self._hooks)

    def attach(self) -> None:
        """Put every hook on, if they are not."""
        if not self._handles:
            self._handles = [hook.attach() for hook in self._hooks]

    def remove(self) -> None:
        """Take every hook off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def exchange(self) -> None:
        """The same as `attach`, in a way that a compiler can follow.

        It writes no entries into a module's own tables, but takes others in their place.
        """
        for tables in self._tables:
            tables.exchange()

    def give_back(self) -> None:
        """The same as `remove` after `exchange`."""
        for tables in self._tables:
            tables.give_back()

    @property
    def compiles(self) -> bool:
        """Whether `exchange` works with this version of torch."""
        return all(tables.known for tables in self._tables)


class _Tables:
    """The hooks of one module as it keeps them."""

    def __init__(self, module: nn.Module, hooks: Sequence[Hook]) -> None:
        self._module = module
        before, after = (vars(module).get(name) for name in TABLES)
        self.known = isinstance(before, dict) and isinstance(after, dict)
        # Held from now on: what a compiler reads from here it can put back as the same object.
        self._before = cast("dict[int, Any]", before)
        self._after = cast("dict[int, Any]", after)
        # Torch counts from 0.
        ours = [(-1 - number, hook) for number, hook in enumerate(hooks) if hook.module is module]
        self._first = {key: hook.run for key, hook in ours if hook.before and hook.first}
        self._last = {key: hook.run for key, hook in ours if hook.before and not hook.first}
        self._gives = {key: hook.run for key, hook in ours if not hook.before}

    def exchange(self) -> None:
        setattr(self._module, TABLES[0], {**self._first, **self._before, **self._last})
        setattr(self._module, TABLES[1], {**self._after, **self._gives})

    def give_back(self) -> None:
        setattr(self._module, TABLES[0], self._before)
        setattr(self._module, TABLES[1], self._after)
