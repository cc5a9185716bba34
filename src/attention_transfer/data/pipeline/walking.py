"""Search for image files below a folder: links are followed, hidden and system files are skipped.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as name:
...     for file in ("cat/1.jpg", "cat/more/2.PNG", "cat/.hidden.jpg", "cat/notes.txt"):
...         (Path(name) / file).parent.mkdir(parents=True, exist_ok=True)
...         _ = (Path(name) / file).write_bytes(b"")
...     others = Others()
...     [path.name for path in images_below(Path(name), others)], str(others)
(['1.jpg', '2.PNG'], '1 .txt')
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from attention_transfer.data.names import shown
from attention_transfer.data.pipeline.formats import endings, is_leftover
from attention_transfer.errors import InputError


@dataclass
class Others:
    """Files beside the images, which are not read.

    Args:
        kinds: how many there are of each ending.
        example: one of them.
    """

    kinds: Counter[str] = field(default_factory=Counter[str])
    example: Path | None = None

    def add(self, path: Path) -> None:
        """Count a file."""
        self.kinds[path.suffix.lower() or "without an ending"] += 1
        self.example = self.example or path

    def __str__(self) -> str:
        """As `12 .heic, 1 .txt`, the most frequent first."""
        kinds = sorted(self.kinds.items(), key=lambda kind: (-kind[1], kind[0]))
        rest = sum(count for _, count in kinds[8:])
        return ", ".join(f"{count} {shown(kind)}" for kind, count in kinds[:8]) + (f", {rest} more" if rest else "")

    def note(self, root: Path) -> str | None:
        """What is left out, in a sentence; None where nothing is."""
        if self.example is None:
            return None
        count = self.kinds.total()
        return (
            f"{count} {'file' if count == 1 else 'files'} in {shown(root)} cannot be read as images and "
            f"{'is' if count == 1 else 'are'} left out ({self}; the first is {shown(self.example.name)}): convert "
            "images among them to JPEG or PNG"
        )


@dataclass(frozen=True)
class Entries:
    """What lies in one folder, without what is hidden or left over; sorted by name.

    Args:
        folders: folders, and links to folders.
        images: files with the ending of an image; also links to files that do not exist.
        others: the remaining files.
    """

    folders: tuple[Path, ...]
    images: tuple[Path, ...]
    others: tuple[Path, ...]


def entries(root: Path) -> Entries:
    """What lies in a folder.

    Raises:
        ValueError: it cannot be read.
    """
    folders: list[Path] = []
    images: list[Path] = []
    others: list[Path] = []
    try:
        with os.scandir(root) as found:
            for entry in found:
                path = root / entry.name
                if is_leftover(entry.name):
                    continue
                if path.is_dir():
                    folders.append(path)
                # A link to nothing is an image that cannot be decoded; a pipe would block whoever opens it.
                elif path.is_file() or (entry.is_symlink() and not path.exists()):
                    (images if path.suffix.lower() in endings() else others).append(path)
    except OSError as error:
        raise InputError(f"the folder {shown(root)} cannot be read: {error.strerror or error}") from error
    return Entries(*(tuple(sorted(paths)) for paths in (folders, images, others)))


Identity = tuple[int, int]
"""Device and inode: the same for all names and links of one folder."""


def images_below(root: Path, others: Others, walked: dict[Identity, list[Path]] | None = None) -> list[Path]:
    """All images in a folder, at any depth, sorted by name.

    Args:
        root: the folder.
        others: receives the files that are none.
        walked: receives every folder that was searched, under all of its names.

    Raises:
        ValueError: a folder cannot be read, or `root` is a link to one that holds it.
    """
    # A link to a folder above the root would bring all that lies beside it.
    above = frozenset(identity(folder) for folder in (*root.absolute().parents, *root.resolve().parents))
    if identity(root) in above:
        raise InputError(
            f"{shown(root)} is a link to {shown(root.resolve())}, the folder that holds it, and would bring all that "
            "lies beside it: remove the link"
        )
    return sorted(_walk(root, others, above, {} if walked is None else walked))


def _walk(root: Path, others: Others, above: frozenset[Identity], walked: dict[Identity, list[Path]]) -> Iterator[Path]:
    this = identity(root)
    if this in above:
        return  # a link back to a folder that holds it
    walked.setdefault(this, []).append(root)
    found = entries(root)
    yield from found.images
    for path in found.others:
        others.add(path)
    for path in found.folders:
        yield from _walk(path, others, above | {this}, walked)


def identity(folder: Path) -> Identity:
    """Device and inode of a folder.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        status = folder.stat()
    except OSError as error:
        raise InputError(f"the folder {shown(folder)} cannot be read: {error.strerror or error}") from error
    return status.st_dev, status.st_ino
