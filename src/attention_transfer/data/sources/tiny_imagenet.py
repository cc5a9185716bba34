"""Tiny-ImageNet (Stanford CS231n): 64×64 images of ImageNet classes with boxes, in its official layout.

>>> tiny_imagenet(Request(root=Path("data")))
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: there is no folder tiny-imagenet-200 in data: unpack ...
"""

import re
from pathlib import Path

import numpy as np

from attention_transfer.data.dataset import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataSet,
    interleaved,
    scaled_boxes,
)
from attention_transfer.data.pipeline.decoding import AS_STORED
from attention_transfer.data.pipeline.image_files import Form, Listing, read
from attention_transfer.data.request import Request
from attention_transfer.errors import InputError
from attention_transfer.files.untrusted import read_text

SIDE = 64


def tiny_imagenet(request: Request) -> DataSet:
    """Reads `tiny-imagenet-200`; its `val` is the test split, as its `test` has no labels.

    Classes of `wnids.txt` without training images are left out. Boxes are inclusive in the files and exclusive here;
    those without an extent are NaN. Training images are in an order in which classes take turns. Files are decoded as
    they are stored, without turning them upright.

    Raises:
        ValueError: a file or folder is missing, or images cannot be decoded.
    """
    root = request.folder(
        "tiny-imagenet-200", "tiny-imagenet", source="http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    )
    wnids = [line.strip() for line in _lines(root / "wnids.txt") if line.strip()]
    wnids = [wnid for wnid in wnids if (root / "train" / wnid / "images").is_dir()]
    if not wnids:
        raise InputError(f"{root / 'train'} holds images of no class that {root / 'wnids.txt'} lists")
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt") if "\t" in line)
    number = {wnid: label for label, wnid in enumerate(wnids)}
    train = _listing([row for wnid in wnids for row in _train_rows(root, wnid)], number)
    train = request.selection.of(train.subset(interleaved(train.labels)), len(wnids))
    test = _listing(_test_rows(root, number), number)
    size = request.image_size or SIDE
    classes = tuple(words.get(wnid, wnid).strip().split(",")[0] for wnid in wnids)
    form = Form(SIDE, SIDE, AS_STORED)
    splits = [
        scaled_boxes(
            read(
                listing,
                form,
                image_size=SIDE,
                photographs=False,
                what=f"images in {root / part}",
                classes=classes,
            ),
            size / SIDE,
        )
        for listing, part in ((train, "train"), (test, "val"))
    ]
    return DataSet(
        name="tiny-imagenet",
        classes=classes,
        train=splits[0],
        validation=None,
        test=splits[1],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=size,
        photographs=False,
        test_is="val",
    )


Row = tuple[Path, str, list[str]]  # file, class, box
_SIDE = re.compile(r"[0-9]{1,4}")


def _train_rows(root: Path, wnid: str) -> list[Row]:
    images = root / "train" / wnid / "images"
    rows = _table(root / "train" / wnid / f"{wnid}_boxes.txt", 5)
    return [(images / name, wnid, box) for name, *box in rows]


def _test_rows(root: Path, number: dict[str, int]) -> list[Row]:
    rows = _table(root / "val" / "val_annotations.txt", 6)
    return [(root / "val" / "images" / name, wnid, box) for name, wnid, *box in rows if wnid in number]


def _table(path: Path, columns: int) -> list[list[str]]:
    rows = [line.split("\t") for line in _lines(path) if line.strip()]
    for i, row in enumerate(rows):
        if len(row) != columns or not all(_SIDE.fullmatch(side.strip()) for side in row[-4:]):
            raise InputError(
                f"row {i} of {path} should end with the four sides of a box, {columns} columns in all: {row}"
            )
    return rows


def _listing(rows: list[Row], number: dict[str, int]) -> Listing:
    boxes = np.array([[float(side) for side in box] for _, _, box in rows], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += 1
    boxes[(boxes[:, 2:] - boxes[:, :2] <= 1).any(axis=1)] = np.nan
    labels = np.array([number[wnid] for _, wnid, _ in rows], dtype=np.int64)
    return Listing([path for path, _, _ in rows], labels, boxes)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"there is no file {path}: the folder should be as tiny-imagenet-200.zip unpacks it")
    return read_text(path).splitlines()
