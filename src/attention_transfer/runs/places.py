"""Places on disk as a user writes them: with environment variables, so that a record holds on every machine."""

import os

from attention_transfer.errors import InputError


def expand(place: str) -> str:
    """A place with its environment variables filled in, so that a run's record can say `$DATA` on every machine.

    Raises:
        ValueError: if a variable is not set.
    """
    expanded = os.path.expandvars(place)
    if "$" in expanded:
        raise InputError(f"{place!r} names an environment variable that is not set")
    return expanded
