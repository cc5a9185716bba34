"""The tensors among what a module hands on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

Item = int | str | None


def tensors_in(value: Any) -> Iterator[tuple[Item, Tensor]]:
    """The tensors that a module gives, each with its index or key; None where it gives a tensor itself."""
    if isinstance(value, Tensor):
        yield None, value
    elif isinstance(value, Mapping):
        yield from ((str(key), each) for key, each in value.items() if isinstance(each, Tensor))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        yield from ((index, each) for index, each in enumerate(value) if isinstance(each, Tensor))


def tensor_in(value: Any, item: Item) -> Any:
    """The tensor of that index or key, or without one the only tensor; anything else as it came.

    Args:
        value: what a module gives, or takes.
        item: index, from the end where it is negative, or key.
    """
    if isinstance(value, Tensor) and item is None:
        return value
    found = dict(tensors_in(value))
    if item is None:
        return next(iter(found.values())) if len(found) == 1 else value
    if isinstance(item, int) and item < 0 and isinstance(value, Sequence):
        item += len(value)
    return found.get(item, value)
