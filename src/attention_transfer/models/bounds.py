"""How large a network may be that somebody asks for in words, of a command or of a file: it must fit into memory.

Libraries build whatever their arguments say, layer by layer, until there is no memory left and the system ends the
process. So what a network registers is counted while it is built.

>>> check_classes(10, least=1)
>>> check_side(224)
"""

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from attention_transfer.errors import InputError
from attention_transfer.files.json_fields import is_whole
from attention_transfer.memory_budget import main_memory

LARGEST_SIDE = 16_384  # pixels; larger squares fill any memory

MOST_CLASSES = 2**24
_SHOWN = 40  # letters of a number that is out of bounds
_MOST_LAYERS = 100_000  # modules and tensors; the deepest known networks have some thousands
_MOST_NUMBERS = 2**33  # where the size of the memory is unknown
_USUAL = 1024  # sizes up to here need no look before the first tensor is made

_Network = TypeVar("_Network", bound=nn.Module)


class TooLargeError(InputError):
    """A network of which this machine has no room for the weights."""


class _Full(Exception):  # noqa: N818
    """Ends the building of a network, through whatever its library catches."""


def check_side(image_size: object) -> None:
    """Refuse what is no side of an image.

    Args:
        image_size: in pixels; None where a network takes any.

    Raises:
        ValueError: saying what it is instead.
    """
    if image_size is None:
        return
    if not is_whole(image_size, 1) or cast(int, image_size) > LARGEST_SIDE:
        raise InputError(
            f"image_size must be a whole number of pixels from 1 to {LARGEST_SIDE:,}, not {repr(image_size)[:_SHOWN]}"
        )


def check_classes(num_classes: object, least: int) -> None:
    """Refuse what is no number of classes.

    Args:
        num_classes: size of a last layer.
        least: that it may have.

    Raises:
        ValueError: saying what it is instead.
    """
    if not isinstance(num_classes, int) or isinstance(num_classes, bool):
        raise InputError(f"num_classes must be a whole number, not {repr(num_classes)[:_SHOWN]}")
    if not is_whole(num_classes, least):
        raise InputError(f"a classifier has at least one class, not {repr(num_classes)[:_SHOWN]}")
    if num_classes > MOST_CLASSES:
        raise InputError(f"a classifier has at most {MOST_CLASSES:,} classes, not {repr(num_classes)[:_SHOWN]}")


def built_within_bounds(name: str, sizes: Iterable[object], make: Callable[[], _Network]) -> _Network:
    """A network, unless it would be larger than this machine's memory.

    Args:
        name: for the message.
        sizes: what it was asked for with: where one is large, it is built without memory first.
        make: builds it; what this raises is passed on.

    Raises:
        TooLargeError: it would be.
    """
    if any(isinstance(size, (int, float)) and size > _USUAL for size in _leaves(sizes)):
        try:
            # Tensors that are filled before they are registered would not be seen in time.
            with torch.random.fork_rng(devices=[]), torch.device("meta"), bounded(name):
                make()
        except TooLargeError:
            raise
        except Exception:  # not every network can be built so; if it cannot be built at all, that is said next
            pass
    with bounded(name):
        return make()


@contextmanager
def bounded(name: str) -> Generator[None]:
    """Count the weights and layers of networks that this thread builds inside.

    Raises:
        TooLargeError: there are more than this machine has memory for, or more than any network has.
    """
    here, memory = threading.get_ident(), main_memory()
    most = _MOST_NUMBERS if memory is None else memory // 4
    numbers, layers = 0, 0

    def count(module: nn.Module, key: str, value: Any) -> None:
        nonlocal numbers, layers
        del module, key
        if threading.get_ident() != here or value is None:
            return
        layers += 1
        with suppress(ValueError, RuntimeError):  # tensors that have no shape yet
            numbers += value.numel() if isinstance(value, Tensor) else 0
        if numbers > most or layers > _MOST_LAYERS:
            raise _Full

    hooks: tuple[Callable[..., Any], ...] = (
        register_module_parameter_registration_hook,
        register_module_buffer_registration_hook,
        register_module_module_registration_hook,
    )
    with ExitStack() as stack:
        for register in hooks:
            stack.callback(register(count).remove)
        try:
            yield
        except _Full as error:
            found = f"{numbers:,} weights" if numbers > most else f"{layers:,} layers and tensors"
            limit = f"the memory here holds {most:,}" if numbers > most else f"{_MOST_LAYERS:,} are the most"
            raise TooLargeError(
                f"{name} is too large: at least {found}, and {limit}. Give smaller sizes in its name or file"
            ) from error


def _leaves(tree: Any) -> Generator[object]:
    if isinstance(tree, dict):
        tree = tree.values()
    if isinstance(tree, str) or not isinstance(tree, Iterable):
        yield tree
        return
    for each in tree:
        yield from _leaves(each)
