"""Image file formats and their file name extensions, and system files that are skipped.

>>> ".jpeg" in endings(), ".heic" in endings()
(True, False)
>>> is_leftover("Thumbs.db"), is_leftover("cat.jpg")
(True, False)
"""

from functools import cache
from pathlib import Path

from PIL import Image, features

from attention_transfer.errors import InputError

# As Pillow calls them. TGA files have no signature, so that anything may be taken for one: they are tried last.
ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
_OPTIONAL = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}

_LEFTOVERS = frozenset({
    "$recycle.bin",
    "recycler",
    "system volume information",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "network trash folder",
    "temporary items",
    "lost+found",
    "#recycle",
    "#snapshot",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "@tmp",
    "@__thumb",
    "__pycache__",
})


@cache
def formats() -> tuple[str, ...]:
    """Names of the formats that this build of Pillow can read."""
    Image.init()
    return tuple(
        name for name in ENDINGS if name in Image.OPEN and (name not in _OPTIONAL or features.check(_OPTIONAL[name]))
    )


@cache
def endings() -> frozenset[str]:
    """Endings, in lower case, of the files that are read."""
    return frozenset(ending for name in formats() for ending in ENDINGS[name])


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or what an operating system, a file server or an archive leaves behind.

    Args:
        name: without the folders that lead there.
    """
    return name.startswith((".", "~$")) or name.lower() in _LEFTOVERS


class IncompleteImageError(InputError):
    """A file that cannot be decoded: damaged, cut off, or no image at all."""


class UnsuitableImageError(InputError):
    """An image that can be decoded, but of which no 8-bit values follow, or that is too large."""


_READ = 64
_SIGNATURES = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"8BPS", "a Photoshop document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"FUJIFILM", "a raw photograph"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL photograph"),
    (b"\xff\x0a", "a JPEG XL photograph"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x00\x05\x16\x07", "what macOS keeps beside a file"),
    (b"version https://git-lfs", "a pointer of Git LFS instead of the file: run git lfs pull"),
)
_BRANDS = {
    b"heic": "an HEIC photograph",
    b"heix": "an HEIC photograph",
    b"hevc": "an HEIC photograph",
    b"mif1": "an HEIF photograph",
    b"msf1": "an HEIF photograph",
    b"avif": "an AVIF photograph",
    b"avis": "an AVIF photograph",
    b"crx ": "a raw photograph",
    b"isom": "a video",
    b"mp42": "a video",
    b"qt  ": "a video",
}


def content(path: Path) -> str | None:
    """Kind of a file that is no readable image, in words; None if it could not be determined.

    Args:
        path: of a file that could not be identified as an image.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(_READ)
    except OSError:
        return None
    if not start:
        return "nothing"
    if start[4:8] == b"ftyp":
        words = _BRANDS.get(start[8:12])
        if start[8:12] not in (b"avif", b"avis"):
            return words
        return (
            f"{words} that is damaged or cut off" if "AVIF" in formats() else f"{words}, which this Pillow cannot read"
        )
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "a video"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML document"
    return next((words for signature, words in _SIGNATURES if start.startswith(signature)), None)
