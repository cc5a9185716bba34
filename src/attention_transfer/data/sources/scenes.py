"""MIT Indoor67 (Quattoni and Torralba, CVPR 2009): photographs of indoor scenes, in their official layout.

>>> scenes(Request(root=Path("data")))
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: there is no folder scenes in data: unpack indoorCVPR_09.tar and ...
"""

from pathlib import Path

import numpy as np

from attention_transfer.data.dataset import DataSet, interleaved
from attention_transfer.data.pipeline.image_files import Listing, photographs
from attention_transfer.data.request import Request
from attention_transfer.errors import InputError
from attention_transfer.files.untrusted import read_text

SIDE = 224
SOURCE = "https://web.mit.edu/torralba/www/indoor.html"


def scenes(request: Request) -> DataSet:
    """Reads `Images/CLASS/…` with the official split, 67 categories; delivered with 224 pixels a side unless asked.

    `TrainImages.txt` and `TestImages.txt` lie beside `Images` and list its files; photographs that neither lists are
    left out. Classes are sorted by name. Training images are in an order in which classes take turns.

    Raises:
        ValueError: a file or folder is missing, a class has no training images, or images cannot be decoded.
    """
    root = _root(request)
    size = request.image_size or SIDE
    rows = {name: _rows(root / f"{name}Images.txt") for name in ("Train", "Test")}
    classes = tuple(sorted({path.split("/")[0] for path in rows["Train"]}))
    number = {name: label for label, name in enumerate(classes)}
    stranger = next((path for path in rows["Test"] if path.split("/")[0] not in number), None)
    if stranger is not None:
        raise InputError(f"{root / 'TestImages.txt'} lists {stranger}, of a class without training images")
    train, test = (
        Listing(
            [root / "Images" / path for path in rows[name]],
            np.array([number[path.split("/")[0]] for path in rows[name]], dtype=np.int64),
        )
        for name in ("Train", "Test")
    )
    train = request.selection.of(train.subset(interleaved(train.labels)), len(classes))
    return photographs("scenes", classes, train, test, size, root)


def _root(request: Request) -> Path:
    """The folder that holds `Images`: the archive does not say what it is called."""
    if (request.cache / "Images").is_dir():
        return request.cache
    root = request.folder("scenes", "indoorCVPR_09", source=f"indoorCVPR_09.tar and the two lists of {SOURCE}")
    if not (root / "Images").is_dir():
        raise InputError(f"{root} should hold the folder Images, TrainImages.txt and TestImages.txt of {SOURCE}")
    return root


def _rows(file: Path) -> list[str]:
    """Paths below `Images`, as CLASS/FILE."""
    if not file.is_file():
        raise InputError(f"there is no file {file}: get it from {SOURCE} and put it beside the folder Images")
    rows = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    wrong = next((row for row in rows if row.count("/") != 1), None)
    if wrong is not None:
        raise InputError(f"{file} should list CLASS/FILE in each line, but has {wrong!r}")
    if not rows:
        raise InputError(f"{file} lists no images: get it from {SOURCE} again")
    return rows
