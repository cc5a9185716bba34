"""Kinds of image files that are read, by the endings of their names, and what file systems leave lying around."""

from functools import cache

from PIL import Image, features

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
