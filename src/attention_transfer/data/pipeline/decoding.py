"""Decoding of image files to 8-bit RGB: orientation, transparency and bit depth, as a viewer shows them.

>>> colour("white"), colour("#7f7f7f")
((255, 255, 255), (127, 127, 127))
>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     path = Path(folder) / "transparent.png"
...     Image.new("RGBA", (4, 2), (255, 0, 0, 0)).save(path)
...     AS_SHOWN.size(path), AS_SHOWN.read(path).getpixel((0, 0)), AS_STORED.read(path).getpixel((0, 0))
((4, 2), (255, 255, 255), (255, 0, 0))
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from attention_transfer.data.names import shown
from attention_transfer.data.pipeline.depth import Deep, deep, is_deep
from attention_transfer.data.pipeline.formats import IncompleteImageError, UnsuitableImageError, content, formats
from attention_transfer.data.pipeline.pillow_gaps import (
    HEIGHT,
    WIDTH,
    colour_key,
    has_late_orientation,
    refuse_misread,
    refuse_misread_depth,
    refuse_unread,
    tags,
)
from attention_transfer.errors import InputError

# How Pillow reports broken files: AVIF by RuntimeError, and by a warning where these have been made errors.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, UserWarning)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_ORIENTATION = 0x0112  # number of the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TGA_HEADER = 18  # bytes; the last one says how many bits are transparency

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)


def colour(name: str) -> Colour:
    """An opaque colour by its name or as `#rrggbb`.

    Raises:
        ValueError: for anything else.
    """
    try:
        found = ImageColor.getcolor(name, "RGBA")
    except ValueError:
        found = None
    if not isinstance(found, tuple) or len(found) != 4 or found[3] != 255:
        raise InputError(
            f"background must be an opaque colour by its name or as #rrggbb, not {name!r}: write white, or #7f7f7f"
        )
    return found[0], found[1], found[2]


@dataclass(frozen=True)
class Decoding:
    """How image files become 8-bit RGB. Embedded colour profiles are only used where a colour model needs one.

    Args:
        as_shown: turn images as their files say, and put transparent ones on the background; False keeps them as they
            are stored, without their transparency: what torchvision's loader does.
        background: what shows through transparent parts.
    """

    as_shown: bool = True
    background: Colour = WHITE

    def size(self, path: Path) -> tuple[int, int]:
        """Width and height of the image, without decoding it.

        Raises:
            IncompleteImageError: no image begins there.
            UnsuitableImageError: it has more pixels than Pillow decodes.
        """
        with _opened(path) as file:
            width, height = _stored_size(file)
            turn = _orientation(file, path) if self.as_shown or file.format == "TIFF" else 1
            return (height, width) if turn >= 5 else (width, height)

    def read(self, path: Path) -> Image.Image:
        """The image of a file, in RGB.

        Raises:
            IncompleteImageError: the file is not a complete image.
            UnsuitableImageError: it is one, but cannot be brought to 8 bits, or has more pixels than Pillow decodes.
        """
        with _opened(path) as file:
            turn = _orientation(file, path) if self.as_shown else 1
            key = colour_key(path) if file.format == "PNG" and self.as_shown else None
            refuse_misread(file, path)
            refuse_misread_depth(file, path)
            if is_deep(file):
                image = self._flattened_deep(deep(file, path), key)
            elif not self.as_shown:
                image = _in_rgb(file)
            else:
                image = self._flattened(file, path, key)
            # Pillow turns TIFF itself.
            return image if turn == 1 or file.format == "TIFF" else image.transpose(_TURNS[turn])

    def check(self, path: Path) -> None:
        """Decode a file just far enough to know that `read` will succeed; arguments and errors are those of `read`."""
        with _opened(path) as file:
            if file.format in ("JPEG", "MPO"):
                # All bytes are read, at an eighth of the size: much faster, and as strict.
                file.draft("RGB", (1, 1))
                file.load()
                return
        self.read(path)

    def _flattened(self, file: Image.Image, path: Path, key: tuple[int, ...] | None) -> Image.Image:
        frame = _first_frame(file)
        file.load()
        if frame is not None:
            # Around its first frame a GIF shows nothing; Pillow gives it a colour of the palette.
            whole = file.convert("RGBA")
            seen = Image.new("RGBA", whole.size)
            seen.paste(whole.crop(frame), frame)
            return self._on_background(seen.convert("RGB"), seen.getchannel("A"))
        if key is not None:
            alpha = Image.fromarray(np.uint8(255) * ~_equal(np.asarray(file.convert("RGB")), key))
            return self._on_background(file.convert("RGB"), alpha)
        palette = file.palette.mode if file.mode == "P" and file.palette is not None else ""
        if file.mode == "La":
            file = file.convert("LA")
        if file.mode not in ("LA", "PA", "RGBA", "RGBa") and "transparency" not in file.info and "A" not in palette:
            return _in_rgb(file)
        transparent = file.convert("RGBA")
        if file.format == "TGA" and not _tga_has_alpha(path):
            return transparent.convert("RGB")
        if file.format in ("BMP", "DIB") and transparent.getchannel("A").getextrema()[1] == 0:
            # Whoever writes the fourth byte of every pixel as nothing means nothing by it, and viewers see that.
            return transparent.convert("RGB")
        return self._on_background(transparent.convert("RGB"), transparent.getchannel("A"))

    def _on_background(self, image: Image.Image, alpha: Image.Image) -> Image.Image:
        lowest = alpha.getextrema()[0]
        if lowest == 255:
            return image
        canvas = Image.new("RGB", image.size, self.background)
        canvas.paste(image, mask=alpha)
        return canvas

    def _flattened_deep(self, image: Deep, key: tuple[int, ...] | None) -> Image.Image:
        alpha = image.alpha
        if key is not None:
            alpha = np.where(_equal(image.colours, key), 0, 65535)
        if alpha is None or not self.as_shown:
            return image.in_bytes()
        weight = alpha.astype(np.int64)[..., None]
        behind = np.array(self.background, dtype=np.int64) * 257
        mixed = (image.in_rgb().astype(np.int64) * weight + behind * (65535 - weight) + 32767) // 65535
        return Deep(mixed, None).in_bytes()


AS_SHOWN = Decoding()
AS_STORED = Decoding(as_shown=False)


@contextmanager
def _opened(path: Path) -> Generator[Image.Image, None, None]:
    try:
        with Image.open(path, formats=formats()) as file:
            limit = Image.MAX_IMAGE_PIXELS
            width, height = file.size
            # Pillow itself only warns of up to twice as many.
            if limit is not None and width * height > limit:
                raise UnsuitableImageError(_too_large(path, width * height))
            yield file
    except (IncompleteImageError, UnsuitableImageError):
        raise
    except _TOO_LARGE as error:
        numbers = re.findall(r"\d+", str(error))
        raise UnsuitableImageError(_too_large(path, int(numbers[0]) if numbers else None)) from error
    except MemoryError as error:
        raise UnsuitableImageError(
            f"{shown(path)} does not fit in this machine's memory once it is decoded: store it smaller, or remove it"
        ) from error
    except _BROKEN as error:
        said = error.strerror if isinstance(error, OSError) else None  # without the path, which is named
        reason = shown(said or error)
        if isinstance(error, UnidentifiedImageError):
            refuse_unread(path)
            held = content(path)
            reason = "what it holds is none that Pillow reads" if held is None else f"it holds {held}"
        raise IncompleteImageError(f"{shown(path)} is not a complete image: {reason}") from error


def _too_large(path: Path, number: int | None) -> str:
    count = "too many" if number is None else f"{number:,}"
    return (
        f"{shown(path)} has {count} pixels, and Pillow decodes images of up to {Image.MAX_IMAGE_PIXELS or 0:,} pixels, "
        "as larger ones may be made to fill the memory: store it smaller, or remove it (in a program of your own, "
        "PIL.Image.MAX_IMAGE_PIXELS sets the limit)"
    )


def _in_rgb(file: Image.Image) -> Image.Image:
    if file.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(file, *profiles, outputMode="RGB")
        assert converted is not None
        return converted
    if file.mode == "P" and isinstance(file.info.get("transparency"), bytes):
        # Pillow warns of what it leaves out on the direct way; the colours are the same.
        file = file.convert("RGBA")
    return file.convert("RGB")


def _stored_size(file: Image.Image) -> tuple[int, int]:
    """Width and height in the file: some versions of Pillow have turned a TIFF when it is opened, others have not."""
    said = tags(file)
    return (int(said[WIDTH]), int(said[HEIGHT])) if said else file.size


def _orientation(file: Image.Image, path: Path) -> int:
    """How an image is to be turned, 1…8; 1 where its file says nothing or nonsense."""
    try:
        # Pillow would decode every PNG that has not said so before its pixels.
        said = {"exif", "xmp", "XML:com.adobe.xmp"} & file.info.keys()
        if file.format == "PNG" and not said and not has_late_orientation(path):
            return 1
        turn = file.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata raise whatever comes, and no viewer minds them
        return 1
    return turn if isinstance(turn, int) and turn in _TURNS else 1


def _first_frame(file: Image.Image) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the first frame of an opened GIF; None where it covers the image, and elsewhere."""
    tiles: list[Any] = list(getattr(file, "tile", ())) if file.format == "GIF" else []
    if len(tiles) != 1:
        return None
    left, top, right, bottom = map(int, tiles[0][1])
    covers = left <= 0 and top <= 0 and right >= file.width and bottom >= file.height
    return None if covers else (left, top, right, bottom)


def _tga_has_alpha(path: Path) -> bool:
    """Whether the fourth channel is transparency: the file says how many of its bits are."""
    with path.open("rb") as stream:
        return bool(stream.read(_TGA_HEADER)[-1] & 0x0F)


def _equal(values: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Which pixels have exactly this colour; shape (h, w)."""
    return (values == np.array(key)).all(axis=-1)
