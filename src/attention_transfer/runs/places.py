"""Places on disk as a user writes them: with environment variables, so that a record holds on every machine."""

import os
import re
from pathlib import Path

from attention_transfer.errors import InputError


def expand(place: str) -> str:
    """A place with its environment variables filled in, so that a run's record can say `$DATA` on every machine.

    What lies on the disk under the very name that was written is taken as it is, dollar signs included.

    Args:
        place: a path, alone or behind the `:` of a kind or the `@` of a model.

    Raises:
        ValueError: if a variable is not set.
    """
    if "$" not in place or _exists(place):
        return place
    expanded = os.path.expandvars(place)
    if "$" in expanded and not _exists(expanded):
        missing = ", ".join(dict.fromkeys(re.findall(r"\$(?:\w+|\{[^}]*\})?", expanded)))
        raise InputError(
            f"{place!r} names an environment variable that is not set ({missing}), and nothing on the disk is called "
            "so: set it, or correct the path"
        )
    return expanded


def _exists(place: str) -> bool:
    paths = (place, place.partition(":")[2], place.partition("@")[2])
    try:
        return any(path and _at_home(path).exists() for path in paths)
    except OSError:  # a name that no file system takes
        return False


def _at_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such home
        return Path(path)
