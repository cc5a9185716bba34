"""Safe reading of files from untrusted sources: of bounded size, never a pipe or a device, and checked.

A run folder is handed on. What it holds is read as data only, and an error says in a sentence what is wrong with it.

>>> parse_object(b'{"epoch": 1}', "line 1")
{'epoch': 1}
>>> parse_object(b'{"loss": NaN}', "line 1")
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: line 1 is not JSON (NaN is no number of JSON); the file was changed by hand
"""

import json
import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any, cast

from attention_transfer.errors import InputError
from attention_transfer.files.json_fields import Json


def unpacks_to(file: Path, *, times: int, least: int) -> int | None:
    """Unpacked bytes of a zip archive that unpacks to suspiciously many (a zip bomb).

    Args:
        file: of any kind.
        times: largest accepted ratio of unpacked bytes to bytes of the archive.
        least: unpacked bytes that are accepted of any archive, however small.

    Returns:
        None for archives that may be unpacked, and for files that are damaged or no archives: their reader refuses
        those.
    """
    if not zipfile.is_zipfile(file):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    return unpacked if unpacked > max(least, times * file.stat().st_size) else None


LARGEST_JSON = 64 * 2**20
"""In bytes; the longest runs of the results have less than a hundredth of it."""


def read_regular(path: Path, largest: int = LARGEST_JSON) -> bytes:
    """All bytes of a file.

    Args:
        path: of a regular file, or a link to one.
        largest: number of bytes that are accepted.

    Raises:
        ValueError: it is no regular file (opening a pipe would wait for ever), is larger, or cannot be read.
    """
    try:
        # Not waiting: a pipe opens at once, and is then seen to be none of ours.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            refuse_irregular(path, state)
            if state.st_size > largest:
                raise InputError(
                    f"{path} has {state.st_size:,} bytes, and {largest:,} are the most that such a file can have: it "
                    "is none of a run"
                )
            # A file that grows while it is read is cut off here, and then fails as JSON.
            return file.read(largest)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def read_text(path: Path, largest: int = LARGEST_JSON) -> str:
    """The text in a file.

    Args:
        path: of a regular file, or a link to one.
        largest: number of bytes that are accepted.

    Raises:
        ValueError: as `read_regular` says, or it is no text in UTF-8.
    """
    try:
        return read_regular(path, largest).decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from error


def refuse_irregular(path: Path, state: os.stat_result) -> None:
    """Refuse what is no regular file.

    Args:
        path: for the message.
        state: of what it leads to.

    Raises:
        ValueError: saying what it is instead.
    """
    if stat.S_ISREG(state.st_mode):
        return
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISSOCK, "a socket"),
    )
    kind = next((name for is_kind, name in kinds if is_kind(state.st_mode)), "no file")
    raise InputError(f"{path} is {kind}, where a regular file belongs: nothing is read from it")


def read_object(path: Path) -> Json:
    """The JSON object in a file.

    Raises:
        ValueError: it cannot be read, is not JSON, or is JSON of another kind than an object.
    """
    return parse_object(read_regular(path), str(path))


def parse_object(content: bytes, source: str) -> Json:
    """The JSON object in some bytes.

    Args:
        content: UTF-8.
        source: where they are from, for messages.

    Raises:
        ValueError: they are not JSON (which has no NaN and no Infinity), nested too deep, or no object.
    """
    try:
        value: Any = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
    # Python's parser of JSON recurses into every bracket.
    except RecursionError as error:
        raise InputError(f"{source} is nested too deep to be read: it is none of a run") from error
    except ValueError as error:
        raise InputError(f"{source} is not JSON ({error}); the file was changed by hand") from error
    if not isinstance(value, dict):
        raise InputError(f"{source} holds {_kind(value)}, where an object with names and values belongs")
    return cast(Json, value)


def _refuse_constant(text: str) -> float:
    raise InputError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InputError(f"{text} is too large a number")
    return value


def _kind(value: object) -> str:
    kinds = {"list": "a list", "str": "a text", "bool": "true or false", "int": "a number", "float": "a number"}
    return kinds.get(type(value).__name__, "null")
