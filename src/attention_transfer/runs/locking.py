"""One writer of a run at a time.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as name:
...     descriptor = lock(Path(name) / "run")
...     try:
...         lock(Path(name) / "run")
...     except RunLockedError:
...         print("locked")
...     os.close(descriptor)
locked
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from attention_transfer.errors import InputError
from attention_transfer.files.writing import NO_FOLLOW, RunUnwritableError, refuse_shared, to_write

LOCK = ".lock"


class RunLockedError(InputError):
    """Another process, or another open `RunFolder` of this one, is writing the run."""


def lock(folder: Path) -> int:
    """Make a folder and lock it; the lock ends with the process, so a killed run can be resumed at once.

    Args:
        folder: of a run.

    Returns:
        A descriptor; closing it lets others write.

    Raises:
        RunLockedError: somebody else is writing the run.
        RunUnwritableError: the folder cannot be made or written, or its lock is no file of its own.
    """
    # Before anything is made: where there is no flock, no empty folder is left behind.
    hold, descriptor = _hold_with(folder), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = to_write(folder, LOCK)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o644)
        refuse_shared(file, os.fstat(descriptor))
        hold(descriptor)
        # Whose lock it is, for the message of who comes second; the lock itself is the kernel's, not this text.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        os.fsync(descriptor)
    except RunUnwritableError:
        if descriptor is not None:
            os.close(descriptor)
        raise
    except OSError as error:
        owner = "?"
        if descriptor is not None:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "?"
            os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise RunLockedError(
                f"{folder} is being written by process {owner}; wait or choose another folder"
            ) from error
        raise RunUnwritableError(
            f"cannot write to {folder}: {error.strerror}; choose a folder you may write"
        ) from error
    return descriptor


def _hold_with(folder: Path) -> Callable[[int], None]:
    """What locks a descriptor; asked for before anything is made."""
    try:
        import fcntl
    except ImportError as error:
        raise RunUnwritableError(
            f"run folders are locked with flock, which {sys.platform} does not have, so that {folder} cannot be "
            "written safely: train in a loop of your own with Distiller, or use Linux, macOS or WSL"
        ) from error
    # Not waiting: a second process should hear at once that the run is taken.
    return lambda descriptor: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
