"""PNG, JPEG 2000 and TIFF files that Pillow silently misreads, or does not read though they are valid."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from attention_transfer.data.names import shown
from attention_transfer.data.pipeline.formats import UnsuitableImageError

_START = b"\xff\x4f\xff\x51"  # of a codestream, whose first segment says how large its values are
_BOXES = 64  # that may come before it
_SEGMENT = struct.Struct(">2H8IH")  # before what it says of each channel
_GREY_16_BITS = "I;16"


def refuse_misread_depth(file: Image.Image, path: Path) -> None:
    """Refuse colours of more than 8 bits: Pillow rounds them up, and what is beyond the last becomes black.

    Args:
        file: as it was opened.
        path: of it.

    Raises:
        UnsuitableImageError: it holds such.
    """
    if file.format != "JPEG2000" or file.mode == _GREY_16_BITS:
        return
    bits = max(_depths(path), default=8)
    if bits > 8:
        raise UnsuitableImageError(
            f"{shown(path)} is a JPEG 2000 of {bits}-bit colours, of which Pillow shows white as black: store it with "
            "8 bits, or as PNG"
        )


def _depths(path: Path) -> list[int]:
    """Bits of each channel; none where the file does not say."""
    with path.open("rb") as stream:
        try:
            if not _at_codestream(stream):
                return []
            *_, count = _SEGMENT.unpack(stream.read(_SEGMENT.size))
            channels = stream.read(3 * count)
        except struct.error:
            return []
    return [(channels[offset] & 0x7F) + 1 for offset in range(0, len(channels), 3)]


def _at_codestream(stream: BinaryIO) -> bool:
    """Go to where the length of the first segment stands."""
    if stream.read(4) == _START:
        return True
    stream.seek(0)
    for _ in range(_BOXES):
        length, kind = struct.unpack(">I4s", stream.read(8))
        if length == 1:
            length = struct.unpack(">Q", stream.read(8))[0] - 8
        if kind == b"jp2c":
            return stream.read(4) == _START
        if length < 8:
            return False
        stream.seek(length - 8, 1)
    return False


_SIGNATURE = 8
_GREY, _COLOUR = 0, 2  # colour types


def colour_key(path: Path) -> tuple[int, ...] | None:
    """The one colour that is transparent, in values as they are decoded: bytes, or 16 bits; None where there is none.

    Args:
        path: of a PNG file with grey or coloured pixels; palettes and alpha channels have no such colour.
    """
    header = key = b""
    for kind, content in _chunks(path, {b"IHDR": 13, b"tRNS": 6}):
        if kind == b"IHDR":
            header = content
        elif kind == b"tRNS":
            key = content
        elif kind == b"IDAT":
            break
    if len(header) < 10 or not key or header[9] not in (_GREY, _COLOUR):
        return None
    bits, colours = header[8], 1 if header[9] == _GREY else 3
    if len(key) < 2 * colours:
        return None
    values = struct.unpack(f">{colours}H", key[: 2 * colours])
    # Fewer bits are spread over 0…255.
    return tuple(value if bits == 16 else (value & (2**bits - 1)) * (255 // (2**bits - 1)) for value in values)


def has_late_orientation(path: Path) -> bool:
    """Whether metadata of the camera come behind the pixels, where Pillow finds them only after it has decoded all."""
    return any(kind == b"eXIf" for kind, _ in _chunks(path, {}))


def _chunks(path: Path, wanted: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The parts of a file by their kinds, with the first bytes of those that are wanted."""
    with path.open("rb") as stream:
        stream.seek(_SIGNATURE)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            content = stream.read(min(length, wanted.get(kind, 0)))
            yield kind, content
            stream.seek(length - len(content) + 4, 1)


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
            tag, kind, number, offset = struct.unpack_from(order + "HHII", content, entry)
            if kind == 3:
                at = entry + 8 if number <= 2 else offset
                found[tag] = struct.unpack_from(f"{order}{number}H", content, at)
    except struct.error:
        return {}
    return found
