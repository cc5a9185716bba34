"""STL-10 (Coates, Ng and Lee, AISTATS 2011): 96×96 images of ten classes, in its official binary files.

>>> stl10(Request(root=Path("data")))
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: there is no folder stl10_binary in data: unpack stl10_binary.tar.gz of ...
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from torchvision.datasets import STL10

from attention_transfer.data.dataset import IMAGENET_MEAN, IMAGENET_STD, DataSet, Split
from attention_transfer.data.request import Request
from attention_transfer.errors import InputError
from attention_transfer.files.untrusted import read_text

SIDE = 96
NUM_CLASSES = 10


def stl10(request: Request) -> DataSet:
    """5,000 + 8,000 labelled images of 96×96 in 10 classes, in the order of the files.

    The images come from ImageNet and are normalised like it. They are delivered whole, at 96 pixels unless asked
    otherwise, and count as small images, which are shifted rather than cropped at random sizes.

    Raises:
        ValueError: a file is missing or does not hold what it should.
    """
    root = request.folder(STL10.base_folder, "stl10", source=f"{STL10.filename} of {STL10.url}")
    names = tuple(read_text(_present(root / STL10.class_names_file)).split())
    if len(names) != NUM_CLASSES:
        raise InputError(f"{root / STL10.class_names_file} should name {NUM_CLASSES} classes, but names {len(names)}")
    # torchvision's own reader first checks the 2.7 GB of unlabelled images, which nothing here needs.
    train, test = (_split(root, name) for name in ("train", "test"))
    return DataSet(
        name="stl10",
        classes=names,
        train=request.selection.of(train, NUM_CLASSES),
        validation=None,
        test=test,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=request.image_size or SIDE,
        photographs=False,
    )


def _split(root: Path, name: str) -> Split:
    images, labels = _images(root / f"{name}_X.bin"), _labels(root / f"{name}_y.bin")
    if len(images) != len(labels):
        raise InputError(
            f"{root / name}_X.bin holds {len(images)} images, but {name}_y.bin {len(labels)} labels: unpack "
            f"{STL10.filename} again"
        )
    return Split(images, labels)


def _images(file: Path) -> UInt8[np.ndarray, "n 96 96 3"]:
    values = np.fromfile(_present(file), dtype=np.uint8)
    if not len(values) or len(values) % (3 * SIDE * SIDE):
        raise InputError(
            f"{file} has {len(values)} bytes, which are no images of 3 × {SIDE} × {SIDE}: unpack {STL10.filename} again"
        )
    # Channel by channel, and within each column by column.
    return np.ascontiguousarray(values.reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1))


def _labels(file: Path) -> Int64[np.ndarray, " n"]:
    labels = np.fromfile(_present(file), dtype=np.uint8).astype(np.int64) - 1
    wrong = np.flatnonzero((labels < 0) | (labels >= NUM_CLASSES))
    if len(wrong):
        raise InputError(
            f"label {labels[wrong[0]] + 1} of image {wrong[0]} in {file} is outside 1…{NUM_CLASSES}: unpack "
            f"{STL10.filename} again"
        )
    return labels


def _present(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"there is no file {file}: the folder should be as {STL10.filename} unpacks it")
    return file
