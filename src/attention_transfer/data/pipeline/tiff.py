"""TIFF files that Pillow reads wrongly without a word, or not at all though they are whole."""

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attention_transfer.data.names import shown
from attention_transfer.data.pipeline.formats import UnsuitableImageError

WIDTH, HEIGHT, BITS, PHOTOMETRIC, SAMPLES, PLANES, FORMAT = 256, 257, 258, 262, 277, 284, 339  # tags
WHITE_IS_ZERO = 0
_SEPARATE = 2  # planes
_FORMATS = {1: "unsigned integers", 2: "signed integers", 3: "floats"}


def tags(file: Image.Image) -> Any:
    """What a TIFF says of itself, by the numbers of its tags; empty for all other files."""
    return getattr(file, "tag_v2", {})


def refuse_misread(file: Image.Image, path: Path) -> None:
    """Refuse what Pillow would take for something else.

    Args:
        file: as it was opened.
        path: of it.

    Raises:
        UnsuitableImageError: for deep colours in planes of their own, for bytes below 0, and for big-endian 32-bit
            values that are compressed.
    """
    said = tags(file)
    bits = tuple(said.get(BITS, ()))
    if said.get(PLANES) == _SEPARATE and max(bits, default=8) > 8:
        raise UnsuitableImageError(
            f"{shown(path)} keeps {max(bits)}-bit colours in planes of their own, which Pillow reads wrongly: store "
            "it pixel by pixel, or with 8 bits"
        )
    if bits == (8,) and 2 in tuple(said.get(FORMAT, ())) and np.asarray(file).max() > 127:
        raise UnsuitableImageError(
            f"{shown(path)} holds integers below 0, and images must lie in 0…255: store it as unsigned 8-bit or 16-bit"
        )
    foreign = "II" if sys.byteorder == "big" else "MM"
    compressed = any(tile[0] == "libtiff" for tile in getattr(file, "tile", ()))
    if compressed and file.mode in ("I", "F") and getattr(said, "prefix", b"") == foreign.encode():
        raise UnsuitableImageError(
            f"{shown(path)} is a compressed TIFF of {'floats' if file.mode == 'F' else 'signed or 32-bit integers'} in "
            f"{(sys.byteorder == 'little' and 'big') or 'little'}-endian order, which Pillow reads wrongly: store it "
            "without compression, or as unsigned 8-bit or 16-bit"
        )


def refuse_unread(path: Path) -> None:
    """Refuse a whole TIFF that Pillow cannot identify; nothing happens where the file is no such TIFF.

    Raises:
        UnsuitableImageError: it is one.
    """
    found = _numbers(path)
    bits, number = found.get(BITS), (found.get(SAMPLES) or (1,))[0]
    if bits is None:
        return
    kind = _FORMATS.get((found.get(FORMAT) or (1,))[0], "values")
    raise UnsuitableImageError(
        f"{shown(path)} is a TIFF with {number} channels of {'/'.join(map(str, sorted(set(bits))))}-bit {kind}, which "
        "Pillow does not read: store it as 8-bit grey or RGB"
    )


def _numbers(path: Path) -> dict[int, tuple[int, ...]]:
    """The tags of the first image that hold 16-bit numbers; none where the file is cut off, or no TIFF."""
    with path.open("rb") as stream:
        beginning = stream.read(4)
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(beginning)
        if order is None:
            return {}
        content = beginning + stream.read()
    found: dict[int, tuple[int, ...]] = {}
    try:
        (start,) = struct.unpack_from(order + "I", content, 4)
        (count,) = struct.unpack_from(order + "H", content, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number, place = struct.unpack_from(order + "HHII", content, entry)
            if kind == 3:
                at = entry + 8 if number <= 2 else place
                found[tag] = struct.unpack_from(f"{order}{number}H", content, at)
    except struct.error:
        return {}
    return found
