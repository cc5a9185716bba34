"""Of PNG files what Pillow does not say, or says differently from version to version."""

import struct
from collections.abc import Iterator
from pathlib import Path

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
