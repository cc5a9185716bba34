"""Oxford Flowers-102 (Nilsback and Zisserman, ICVGIP 2008): photographs of flowers, in their official layout.

>>> flowers102(Request(root=Path("data")))
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: there is no folder flowers-102 in data: unpack 102flowers.tgz, ...
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from attention_transfer.data.dataset import DataSet, interleaved
from attention_transfer.data.pipeline.image_files import Listing, photographs
from attention_transfer.data.request import Request
from attention_transfer.errors import InputError, needing

SIDE = 224
SOURCE = "102flowers.tgz, imagelabels.mat and setid.mat of https://www.robots.ox.ac.uk/~vgg/data/flowers/102"


def flowers102(request: Request) -> DataSet:
    """Reads `jpg/image_NNNNN.jpg` with the official split, 102 categories; 224 pixels a side unless asked otherwise.

    Training images are the 1,020 for training and the 1,020 for validation, as transformers are compared on it; test
    images are the 6,149 others. `imagelabels.mat` and `setid.mat` lie beside `jpg`. Training images are in an
    order in which classes take turns.

    Raises:
        ValueError: a file or folder is missing or no such file, or images cannot be decoded.
    """
    root = _root(request)
    labels = _numbers(root / "imagelabels.mat", "labels")
    num_classes = int(labels.max())

    def listing(*names: str) -> Listing:
        # Images and classes count from 1.
        index = np.sort(np.concatenate([_numbers(root / "setid.mat", name) for name in names]))
        if index.min() < 1 or index.max() > len(labels):
            raise InputError(f"{root / 'setid.mat'} names images that {root / 'imagelabels.mat'} does not list")
        paths = [root / "jpg" / f"image_{number:05}.jpg" for number in index]
        return Listing(paths, labels[index - 1] - 1)

    train = listing("trnid", "valid")
    train = request.selection.of(train.subset(interleaved(train.labels)), num_classes)
    classes = tuple(f"flower {number}" for number in range(1, num_classes + 1))
    return photographs("flowers102", classes, train, listing("tstid"), request.image_size or SIDE, root)


def _root(request: Request) -> Path:
    """The folder that holds `jpg`: the archive does not say what it is called."""
    if (request.cache / "jpg").is_dir():
        return request.cache
    root = request.folder("flowers-102", "flowers102", "oxford-flowers-102", source=SOURCE)
    if not (root / "jpg").is_dir():
        raise InputError(f"{root} should hold the folder jpg, imagelabels.mat and setid.mat: {SOURCE}")
    return root


def _numbers(file: Path, name: str) -> Int64[np.ndarray, " n"]:
    """A row of whole numbers, counted from 1, from a file of MATLAB."""
    if not file.is_file():
        raise InputError(f"there is no file {file}: get {SOURCE} and put it beside the folder jpg")
    with needing("flowers102", "scipy"):
        from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(file)
        row = np.asarray(content[name]).reshape(-1)
    except Exception as error:  # its reader falls over damaged files in many ways
        raise InputError(f"{file} holds no row {name!r} as {SOURCE} has it: {error!r}") from error
    whole = row.dtype.kind in "iu" or (
        row.dtype.kind == "f" and bool((np.isfinite(row) & (row == np.round(row))).all())
    )
    if not len(row) or not whole or row.min() < 1:
        raise InputError(f"the row {name!r} of {file} must hold whole numbers from 1 on: get {SOURCE} again")
    return row.astype(np.int64)
