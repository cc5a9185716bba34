"""Whether a network ends in a function that makes probabilities."""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# What torch calls them, as functions, as methods and in graphs that it exported.
_SQUASHING = {
    "expit": "a sigmoid",
    "hardsigmoid": "a hard sigmoid",
    "logsigmoid": "the logarithm of a sigmoid",
    "log_sigmoid": "the logarithm of a sigmoid",
    "sigmoid": "a sigmoid",
    "sigmoid_": "a sigmoid",
    "softmax": "a softmax",
    "special_expit": "a sigmoid",
}


def squashed_by(run: Callable[[], Tensor]) -> str | None:
    """The function of probabilities whose result a network returns, in words; None for any other.

    Args:
        run: runs the network, and returns what it returned.
    """
    with torch.no_grad(), _Squashings() as made:
        result = run()
    return next((words for tensor, words in made.results if tensor() is result), None)


class _Squashings(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[Callable[[], Any], str]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        words = _SQUASHING.get(getattr(func, "__name__", "").partition(".")[0])
        if words is not None and isinstance(result, Tensor):
            self.results.append((ref(result), words))
        return result
