"""CUB-200-2011 (Wah et al., Caltech technical report CNS-TR-2011-001): birds with boxes, in its official layout.

>>> cub200(Request(root=Path("data")))
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: there is no folder CUB_200_2011 in data: unpack CUB_200_2011.tgz of ...
"""

from pathlib import Path

import numpy as np

from attention_transfer.data.dataset import DataSet, interleaved
from attention_transfer.data.names import shown
from attention_transfer.data.pipeline.image_files import Listing, photographs
from attention_transfer.data.request import Request
from attention_transfer.errors import InputError
from attention_transfer.files.untrusted import read_text

SIDE = 224


def cub200(request: Request) -> DataSet:
    """Reads `CUB_200_2011` with its official split; delivered with 224 pixels a side unless asked otherwise.

    Training images are in an order in which classes take turns.

    Raises:
        ValueError: a file is missing or does not fit the others, or images cannot be decoded.
    """
    root = request.folder(
        "CUB_200_2011", source="CUB_200_2011.tgz of https://www.vision.caltech.edu/datasets/cub_200_2011"
    )
    size = request.image_size or SIDE
    names = _table(root / "classes.txt")
    images = _table(root / "images.txt")
    labels = _table(root / "image_class_labels.txt")
    in_train = _table(root / "train_test_split.txt")
    bounds = _table(root / "bounding_boxes.txt")
    for name, table in (("image_class_labels", labels), ("train_test_split", in_train), ("bounding_boxes", bounds)):
        missing = [key for key in images if key not in table]
        if missing:
            raise InputError(
                f"{root / (name + '.txt')} says nothing of image {missing[0]} and {len(missing) - 1} others"
            )
    # Classes count from 1 in the files, and are keys here; indices count from 0.
    number = {key: label for label, key in enumerate(names)}
    stranger = next((key for key in images if labels[key] not in number), None)
    if stranger is not None:
        raise InputError(
            f"{root / 'image_class_labels.txt'} gives image {stranger} class {labels[stranger]}, "
            f"which {root / 'classes.txt'} does not list"
        )
    sides = [_box(bounds[key], root / "bounding_boxes.txt") for key in images]
    boxes = np.array(sides, dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # the files give left, top, width, height
    listing = Listing(
        [root / "images" / name for name in images.values()],
        np.array([number[labels[key]] for key in images], dtype=np.int64),
        boxes,
    )
    for_training = np.array([in_train[key] == "1" for key in images], dtype=bool)
    train = listing.subset(np.flatnonzero(for_training))
    train = request.selection.of(train.subset(interleaved(train.labels)), len(names))
    test = listing.subset(np.flatnonzero(~for_training))
    classes = tuple(name.partition(".")[2].replace("_", " ") for name in names.values())
    return photographs("cub200", classes, train, test, size, root)


def _table(path: Path) -> dict[str, str]:
    """Lines of a number and a value."""
    if not path.is_file():
        raise InputError(f"there is no file {path}: the folder should be as CUB_200_2011.tgz unpacks it")
    rows = [line.split(maxsplit=1) for line in read_text(path).splitlines() if line.strip()]
    wrong = next((row for row in rows if len(row) != 2), None)
    if wrong is not None:
        raise InputError(f"{path} should hold a number and a value in each line, but has only {shown(wrong[0])!r}")
    return {key: value.strip() for key, value in rows}


def _box(values: str, path: Path) -> list[float]:
    """Left, top, width and height of one line."""
    try:
        box = [float(value) for value in values.split()]
    except ValueError:
        box = []
    if len(box) != 4 or not np.isfinite(box).all():
        raise InputError(f"{path} should hold left, top, width and height of each image, but has {shown(values)!r}")
    return box
