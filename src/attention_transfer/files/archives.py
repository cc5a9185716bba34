"""Archives that somebody else may have packed: how much comes out of them is asked before anything does."""

import zipfile
from pathlib import Path


def unpacks_to(file: Path, *, times: int, least: int) -> int | None:
    """Bytes that come out of an archive, where these are so many more than it has that it holds nothing of use.

    Args:
        file: of any kind.
        times: its own bytes may come out of it.
        least: bytes that may come out of any archive, however small.

    Returns:
        None for archives that may be unpacked, and for files that are no archives, or damaged ones: whoever reads them
        says so.
    """
    if not zipfile.is_zipfile(file):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    return unpacked if unpacked > max(least, times * file.stat().st_size) else None
