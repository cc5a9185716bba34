"""Environment variables and `~` in paths.

>>> import os
>>> os.environ["EXAMPLE_DATA"] = "/srv/data"
>>> expand("npz:$EXAMPLE_DATA/cifar100")
'npz:/srv/data/cifar100'
>>> del os.environ["EXAMPLE_DATA"]
"""

import errno
import os
import re
from pathlib import Path

from attention_transfer.errors import InputError

_SHOWN = 80  # characters of a path in a message
# Whether there is such a file cannot be known: its name is too long, or the way there is closed.
_UNKNOWABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP)


def expand(path: str) -> str:
    """A path with its environment variables filled in, so that a run's record can say `$DATA` on every machine.

    What lies on the disk under the very name that was written is taken as it is, dollar signs included.

    Args:
        path: by itself, or behind the `:` of a kind or the `@` of a model.

    Raises:
        ValueError: if a variable is not set.
    """
    if "$" not in path or _exists(path):
        return path
    # Unset variables are left in the text by expandvars, dollar sign included.
    expanded = os.path.expandvars(path)
    if "$" in expanded and not _exists(expanded):
        missing = ", ".join(dict.fromkeys(re.findall(r"\$(?:\w+|\{[^}]*\})?", expanded)))
        raise InputError(
            f"{path!r} names an environment variable that is not set ({missing}), and nothing on the disk is called "
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


def _exists(path: str) -> bool:
    # `npz:PATH` and `MODEL@FILE` name a file behind their sign; all readings are tried.
    candidates = (path, path.partition(":")[2], path.partition("@")[2])
    try:
        return any(each and at_home(Path(each)).exists() for each in candidates)
    except (InputError, OSError):  # a name that no file system takes
        return False
