"""Places on disk as a user writes them: with environment variables, so that a record holds on every machine."""

import errno
import os
import re
from pathlib import Path

from attention_transfer.errors import InputError

_SHOWN = 80
# Whether there is such a file cannot be known: its name is too long, or the way there is closed.
_UNKNOWABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP)


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


def at_home(path: Path) -> Path:
    """A path whose `~` is filled in, except where a file or folder is really called so.

    Raises:
        ValueError: there is no such home, no file system takes such a name, or nobody may look there.
    """
    try:
        path.lstat()
    except ValueError as error:
        raise InputError(f"{_short(path)} cannot be looked up: no file can be called that") from error
    except OSError as error:
        if error.errno in _UNKNOWABLE:
            raise InputError(f"{_short(path)} cannot be looked up: {error.strerror or error}") from error
    else:
        return path
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{_short(path)} begins with a home folder that does not exist") from error


def _short(path: Path) -> str:
    text = str(path)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _exists(place: str) -> bool:
    paths = (place, place.partition(":")[2], place.partition("@")[2])
    try:
        return any(path and at_home(Path(path)).exists() for path in paths)
    except (InputError, OSError):  # a name that no file system takes
        return False
