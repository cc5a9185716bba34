"""Folders of small images, as people have them, and PNG and TIFF files that Pillow does not write."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Content = Image.Image | bytes | Callable[[Path], object]
RED = Image.new("RGB", (16, 16), "red")
CLEAN: dict[str, Content] = {"train/a/0.png": RED, "train/b/0.png": RED, "val/a/0.png": RED, "val/b/0.png": RED}


def write_folder(root: Path, contents: dict[str, Content]) -> str:
    """Writes images, bytes, or what functions write; gives the name of the data set."""
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, Image.Image):
            content.save(path, format=None if path.suffix.lower() in (".png", ".jpg", ".bmp") else "png")
        else:
            content(path)
    return f"folder:{root}"


def unsplit(root: Path, **counts: int) -> str:
    """Writes so many images of each class, without parts; gives the name of the data set."""
    images: dict[str, Content] = {}
    for name, num in counts.items():
        images |= {f"{name}/{i}.png": Image.new("RGB", (16, 16), (i, 0, 0)) for i in range(num)}
    return write_folder(root, images)


# ---------------------------------------------------------------- PNG and TIFF files written byte by byte

_TIFF_TYPES = {(1, 8): "u1", (1, 16): "u2", (1, 32): "u4", (2, 8): "i1", (2, 16): "i2", (2, 32): "i4"} | {
    (3, 32): "f4",
    (3, 64): "f8",
}


def write_png(
    path: Path,
    values: np.ndarray,
    colour_type: int,
    bits: int,
    *,
    transparency: bytes = b"",
    palette: bytes = b"",
    exif: bytes = b"",
    exif_last: bool = False,
) -> Path:
    """A PNG file.

    Args:
        path: of it.
        values: shape (h, w, channels).
        colour_type: 0 grey, 2 colour, 3 palette, 4 grey and 6 colour with alpha.
        bits: of a value: 1, 2, 4, 8 or 16.
        transparency: content of tRNS.
        palette: content of PLTE.
        exif: content of eXIf.
        exif_last: whether that comes behind the pixels.
    """
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + _packed(row.reshape(-1), bits) for row in values)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    early, late = (b"", exif) if exif_last else (exif, b"")
    parts = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", transparency), (b"eXIf", early)]
    parts += [(b"IDAT", zlib.compress(rows)), (b"eXIf", late)]
    chunks = [_chunk(kind, content) for kind, content in parts if content]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b""))
    return path


def _packed(row: np.ndarray, bits: int) -> bytes:
    if bits == 16:
        return row.astype(">u2").tobytes()
    if bits == 8:
        return row.astype(np.uint8).tobytes()
    return np.packbits(np.concatenate([np.array([(v >> b) & 1 for b in range(bits)[::-1]]) for v in row])).tobytes()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_tiff(
    path: Path,
    values: np.ndarray,
    bits: int,
    photometric: int,
    *,
    kind: int = 1,
    order: str = "<",
    compressed: bool = False,
    extra: int | None = None,
    orientation: int | None = None,
    planar: bool = False,
) -> Path:
    """A TIFF file of one strip, or one for each channel.

    Args:
        path: of it.
        values: shape (h, w) or (h, w, channels).
        bits: of a value.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK, 8 L*a*b*.
        kind: 1 unsigned, 2 signed, 3 floats.
        order: `<` or `>`.
        compressed: by deflate.
        extra: what the last channel is: 0 nothing, 1 premultiplied and 2 plain alpha.
        orientation: 1…8.
        planar: whether each channel has a plane of its own.
    """
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    data = values.astype(order + _TIFF_TYPES[kind, bits])
    strips = [data[..., i].tobytes() for i in range(channels)] if planar else [data.tobytes()]
    strips = [zlib.compress(strip) for strip in strips] if compressed else strips
    entries = {256: [width], 257: [height], 258: [bits] * channels, 259: [8 if compressed else 1], 262: [photometric]}
    entries |= {273: [0] * len(strips), 277: [channels], 278: [height], 279: [len(strip) for strip in strips]}
    entries |= {284: [2 if planar else 1], 339: [kind] * channels}
    entries |= {} if orientation is None else {274: [orientation]}
    entries |= {} if extra is None else {338: [extra]}
    start = 8 + 2 + 12 * len(entries) + 4
    entries[273] = [start + sum(map(len, strips[:i])) for i in range(len(strips))]
    tail, table = b"".join(strips), b""
    for tag, numbers in sorted(entries.items()):
        long = tag in (256, 257, 273, 278, 279)
        content = struct.pack(order + ("I" if long else "H") * len(numbers), *numbers)
        if len(content) > 4:
            tail, content = tail + content, struct.pack(order + "I", start + len(tail))
        table += struct.pack(order + "HHI", tag, 4 if long else 3, len(numbers)) + content.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    path.write_bytes(head + table + bytes(4) + tail)
    return path
