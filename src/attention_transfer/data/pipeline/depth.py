"""Images of more than 8 bits per channel: 16-bit values divided by 257, others only where they are 0…255 or 0…1.

>>> image = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))
>>> is_deep(image), Deep(np.asarray(image)[..., None], None).in_bytes().getpixel((1, 0))
(True, (1, 1, 1))
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attention_transfer.data.names import shown
from attention_transfer.data.pipeline.formats import UnsuitableImageError, formats
from attention_transfer.data.pipeline.pillow_gaps import BITS, PHOTOMETRIC, WHITE_IS_ZERO, tags

_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
# Where Pillow keeps the upper byte of two, the other order of bytes gives it the lower one.
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_HALVED = ("RGB", "RGBX", "RGBA", "CMYK")


@dataclass(frozen=True)
class Deep:
    """Pixels of 16 bits.

    Args:
        colours: shape (h, w, 1), (h, w, 3) or, for CMYK, (h, w, 4); 0…65535.
        alpha: opacity, shape (h, w); 0…65535; None where all is opaque.
    """

    colours: np.ndarray
    alpha: np.ndarray | None

    def in_rgb(self) -> np.ndarray:
        """Shape (h, w, 3), 0…65535."""
        if self.colours.shape[2] == 4:
            colours = self.colours.astype(np.int64)
            return (65535 - colours[..., :3]) * (65535 - colours[..., 3:]) // 65535
        return np.broadcast_to(self.colours, (*self.colours.shape[:2], 3))

    def in_bytes(self) -> Image.Image:
        """The image in 8 bits, without its transparency."""
        rounded = (self.in_rgb().astype(np.int64) + 128) // 257
        return Image.fromarray(np.ascontiguousarray(rounded.astype(np.uint8)))


def is_deep(file: Image.Image) -> bool:
    """Whether the pixels of an opened file have more than 8 bits."""
    return file.mode in (*_SIXTEEN, "I", "F") or _halved(file) is not None


def deep(file: Image.Image, path: Path) -> Deep:
    """The pixels of a file for which `is_deep` holds.

    Args:
        file: as it was opened.
        path: of it.

    Raises:
        UnsuitableImageError: integers or floats outside of what can be brought to 8 bits.
    """
    said = tags(file)
    bits, inverted = tuple(said.get(BITS, ())), said.get(PHOTOMETRIC) == WHITE_IS_ZERO
    halved = _halved(file)
    if halved is not None:
        return _both_halves(file, path, halved)
    values = np.asarray(file)
    if file.mode in _SIXTEEN or (file.mode == "I" and file.format in ("PNG", "PPM")):
        found = values.astype(np.int64)
        if bits == (12,):
            found = (found * 65535 + 2047) // 4095
        return Deep((65535 - found if inverted else found)[..., None], None)
    return Deep(_in_range(values, path, inverted)[..., None], None)


def _in_range(values: np.ndarray, path: Path, inverted: bool) -> np.ndarray:
    """Integers of 32 bits, and floats, as 16-bit values."""
    low, high = values.min(), values.max()
    floats = values.dtype.kind == "f"
    if floats and not np.isfinite(values).all():
        raise UnsuitableImageError(
            f"{shown(path)} holds floats that are not finite (NaN or infinite), which are no brightness: replace them"
        )
    if not 0 <= low <= high <= 255:
        raise UnsuitableImageError(
            f"{shown(path)} holds {'floats' if floats else '32-bit integers'} from {low:g} to {high:g}, of which "
            f"nothing says what is black and white: store it in 0…255{' or 0…1' if floats else ''}, or with 16 bits"
        )
    scaled = np.round(values.astype(np.float64) * (65535 if floats and high <= 1 else 257)).astype(np.int64)
    return 65535 - scaled if inverted else scaled


def _halved(file: Any) -> str | None:
    """The raw mode of 16-bit colours, of which Pillow keeps the upper byte; None for all others."""
    modes = {raw for tile in getattr(file, "tile", ()) if (raw := _raw_mode(tile)) is not None}
    raw = modes.pop() if len(modes) == 1 else ""
    name, _, order = raw.partition(";16")
    return raw if (name in _HALVED and order in _OTHER_ORDER) or raw == "LA;16B" else None


def _raw_mode(tile: Any) -> str | None:
    arguments = tile[3]
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else None


def _both_halves(file: Image.Image, path: Path, raw: str) -> Deep:
    if raw == "LA;16B":
        four = np.asarray(_decoded_as(path, "RGBA")).astype(np.int64)
        grey, alpha = four[..., 0] * 256 + four[..., 1], four[..., 2] * 256 + four[..., 3]
        return Deep(grey[..., None], alpha)
    name, _, order = raw.partition(";16")
    upper = np.asarray(file).astype(np.int64)
    lower = np.asarray(_decoded_as(path, f"{name};16{_OTHER_ORDER[order]}")).astype(np.int64)
    values = upper * 256 + lower
    if file.mode == "RGBA":
        return Deep(values[..., :3], values[..., 3])
    # Some versions of Pillow keep an unused fourth channel.
    return Deep(values if name == "CMYK" else values[..., :3], None)


def _decoded_as(path: Path, raw: str) -> Image.Image:
    """The pixels of a file taken apart in another way than it says."""
    file: Any
    with Image.open(path, formats=formats()) as file:
        file.tile = [_with_raw_mode(tile, raw) for tile in file.tile]
        file.load()
        return file


def _with_raw_mode(tile: Any, raw: str) -> Any:
    arguments = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)
