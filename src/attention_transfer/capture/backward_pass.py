"""Which backward pass a thread is in, and its end. Torch may tell only one of the two."""

import threading
from collections.abc import Callable
from itertools import count

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
