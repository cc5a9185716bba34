"""Files and folders that appear whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"
"""How names of what is still being written begin."""


@contextmanager
def whole_file(path: str | Path) -> Generator[Path]:
    """Write a file that appears whole or not at all, replacing what was there.

    Yields:
        A temporary path in the same folder with the same suffix, to be written inside the `with` block.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _synchronise(path.parent)


def write_whole(path: str | Path, content: bytes) -> None:
    """Write bytes to a file that appears whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def whole_folder(path: str | Path) -> Generator[Path]:
    """Write a folder that appears whole or not at all, replacing what was there; its parent is made.

    Yields:
        A temporary folder beside it, to be filled inside the `with` block.
    """
    path = Path(path)
    temporary = temporary_name(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        # A folder cannot take the place of one that holds something; for a moment there is neither, never a half.
        if path.exists() or path.is_symlink():
            remove_whole(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _synchronise(path.parent)


def remove_whole(folder: Path) -> None:
    """Remove a folder so that it is never seen half empty; of a link to one, the link."""
    if folder.is_symlink():
        folder.unlink()
        return
    temporary = temporary_name(folder)
    folder.replace(temporary)
    shutil.rmtree(temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing in a folder, which need not exist."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def temporary_name(path: Path) -> Path:
    """Where a file or folder is written before it takes its place: beside it, under a name that nobody can foresee.

    Who handed the folder on could otherwise have put a link there, through which another file would be written.
    """
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def _synchronise(folder: Path) -> None:
    """Make names in a folder last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
