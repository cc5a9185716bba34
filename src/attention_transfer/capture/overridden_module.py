"""Running a network of which one module gives something else than it computes."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attention_transfer.capture.scoped_hooks import Attached, Hook

_Result = TypeVar("_Result")


class Changed:
    """What one module gives, changed while its network runs for us. Between such runs the network is as it was.

    Args:
        module: of the network.
        change: of what it takes and gives.
    """

    def __init__(self, module: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        def run(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            del module
            return change(args[0], output)

        self._attached = Attached([Hook(module, run, before=False)])

    def run(self, call: Callable[[], _Result]) -> _Result:
        """Call something that runs the network."""
        if torch.compiler.is_compiling() and self._attached.compiles:
            self._attached.exchange()
            try:
                return call()
            finally:
                self._attached.give_back()
        self._attached.attach()
        try:
            return call()
        finally:
            self._attached.remove()
