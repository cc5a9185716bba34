"""Atomic writing of files and folders: they appear whole or not at all.

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as name:
...     folder = Path(name) / "run"
...     make_folder(folder)
...     write_whole(folder / "summary.json", b"{}")
...     with whole_file(folder / "notes.txt") as temporary:
...         _ = temporary.write_text("learned")
...     sorted(path.name for path in folder.iterdir())
['notes.txt', 'summary.json']
"""

import errno
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from attention_transfer.errors import InputError
from attention_transfer.files.writing import unwritable

_MORE = bytes(2**20)  # 1 MiB, written to learn why a library could not write: a full disk refuses it too

# What says that folders cannot be synchronised: Windows opens none, and some servers of files know no such thing.
_NOT_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF)

TEMPORARY = ".tmp-"
"""How names of what is still being written begin."""


@contextmanager
def whole_file(path: str | Path) -> Generator[Path]:
    """Write a file that appears whole or not at all, replacing what was there.

    Yields:
        A temporary path in the same folder with the same suffix, to be written inside the `with` block.

    Raises:
        RunUnwritableError: nothing can be written there, or no more.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        with said_where(path, temporary):
            yield temporary
            # Content first, then the name: otherwise a loss of power could leave the name with an empty file.
            _make_last(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _synchronise(path.parent)


@contextmanager
def said_where(path: Path, temporary: Path) -> Generator[None]:
    """Say of which file it is that it cannot be written, and why.

    Args:
        path: as the user knows it.
        temporary: what is written inside the `with` block.

    Raises:
        RunUnwritableError: the block failed because nothing can be written there, or no more.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error
    except Exception as error:
        # Those of torch and safetensors do not say that a disk is full: more of the same does.
        try:
            _write_more(temporary / TEMPORARY if temporary.is_dir() else temporary)
        except OSError as reason:
            raise unwritable(path, reason) from error
        raise


def _write_more(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(_MORE)
        opened.flush()
        os.fsync(opened.fileno())


def make_folder(folder: Path) -> None:
    """Make a folder and those that it lies in, where there are none yet.

    Raises:
        RunUnwritableError: it cannot be made, or a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


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
    make_folder(temporary)
    try:
        with said_where(path, temporary):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    _make_last(file)
            # No system replaces a folder that is not empty; for a moment there is neither, never a half.
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
    """Path under which a file or folder is written before it is renamed: beside it, with a name that cannot be guessed.

    Who handed the folder on could otherwise have put a link there, through which another file would be written.
    """
    # The process id is for people who find a leftover; the random part is what cannot be guessed.
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def _make_last(file: Path) -> None:
    # A descriptor of any mode will do: fsync concerns the file, not who wrote it.
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _synchronise(folder: Path) -> None:
    """Make names in a folder last through a loss of power, where its file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_OF_FOLDERS:
            raise unwritable(folder, error) from error
