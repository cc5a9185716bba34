r"""Safe writing inside one folder: symbolic links and hard links are refused, never followed.

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as name:
...     file = to_write(Path(name), "metrics.jsonl")
...     append(file, b"first\n")
...     append(file, b"second\n")
...     file.read_text().split()
...     _ = (Path(name) / "findings").symlink_to("elsewhere")
...     try:
...         to_write(Path(name), "findings", "cost.json")
...     except RunUnwritableError as error:
...         print("refused:", "link" in str(error))
['first', 'second']
refused: True
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from attention_transfer.errors import InputError

# Of Windows, and of Python since 3.12.
_is_junction: Callable[[Path], bool] = getattr(os.path, "isjunction", lambda _: False)
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class RunUnwritableError(InputError, OSError):
    """Nothing can be written where the run, or another file of ours, should go."""


def to_write(folder: Path, *names: str) -> Path:
    """The path of a file in a run, or in a folder of runs, that is going to be written.

    Args:
        folder: as the user gave it.
        names: of folders in it, and of the file at the end.

    Raises:
        RunUnwritableError: one of them is a link, through which something outside of the folder would be written.
    """
    # The folder itself may be a link: the user named it. What lies in it may be from somebody else.
    path = folder
    for name in names:
        path /= name
        if path.is_symlink() or _is_junction(path):
            raise RunUnwritableError(
                f"{path} is a link to another path, and what is written here stays in {folder}: delete the link"
            )
    return path


def append(file: Path, content: bytes) -> None:
    """Add bytes to the end of a file that lies in a run, and make them last.

    Raises:
        RunUnwritableError: the file is none of the run's own, or nothing can be written there.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NO_FOLLOW, 0o644)
        try:
            refuse_shared(file, os.fstat(descriptor))
            # One call of os.write may take only a part of the bytes.
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except RunUnwritableError:
        raise
    except OSError as error:
        raise unwritable(file, error) from error


def unwritable(path: Path, error: OSError) -> RunUnwritableError:
    """What to say of a file or folder that cannot be written.

    Args:
        path: of it, as the user knows it.
        error: of the system.
    """
    return RunUnwritableError(
        f"{path} cannot be written: {error.strerror or error}. Make room, or choose a folder that you may write"
    )


def refuse_shared(file: Path, state: os.stat_result) -> None:
    """Refuse a pipe or a device, and a file that has another name elsewhere: writing it would change that too."""
    # Asked of the open descriptor, not of the path, which could lead elsewhere by now.
    if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
        kind = "is another file too (a hard link)" if stat.S_ISREG(state.st_mode) else "is no regular file"
        raise RunUnwritableError(f"{file} {kind}, and a run writes only files of its own: delete it")
