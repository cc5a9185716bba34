"""JPEG 2000 files that Pillow reads wrongly without a word."""

import struct
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from attention_transfer.data.names import shown
from attention_transfer.data.pipeline.formats import UnsuitableImageError

_START = b"\xff\x4f\xff\x51"  # of a codestream, whose first segment says how large its values are
_BOXES = 64  # that may come before it
_SEGMENT = struct.Struct(">2H8IH")  # before what it says of each channel
_GREY = "I;16"


def refuse_misread_depth(file: Image.Image, path: Path) -> None:
    """Refuse colours of more than 8 bits: Pillow rounds them up, and what is beyond the last becomes black.

    Args:
        file: as it was opened.
        path: of it.

    Raises:
        UnsuitableImageError: it holds such.
    """
    if file.format != "JPEG2000" or file.mode == _GREY:
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
    return [(channels[place] & 0x7F) + 1 for place in range(0, len(channels), 3)]


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
