"""Folders of small images, as people have them."""

from collections.abc import Callable
from pathlib import Path

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
