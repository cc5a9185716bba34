"""iNaturalist of 2017, 2018 and 2019 (Van Horn et al., CVPR 2018, arXiv:1707.06642): photographs of species.

>>> inaturalist(2018)(Request(root=Path("data")))
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: there is no folder train_val2018 in data: unpack train_val2018.tar.gz and ...
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attention_transfer.data.dataset import DataSet, interleaved
from attention_transfer.data.pipeline.image_files import Listing, photographs
from attention_transfer.data.request import Request
from attention_transfer.errors import InputError

SIDE = 224
# What the folder of images is called in the archive of each year; torchvision calls it after the year.
ARCHIVES = {2017: "train_val_images", 2018: "train_val2018", 2019: "train_val2019"}


def inaturalist(year: int) -> Callable[[Request], DataSet]:
    """Reads the images of one year's competition with its official split; `val` is the test split.

    The root holds the images as the archive unpacks them (`train_val2018/…`) or as torchvision's `INaturalist` keeps
    them (`2018/…`), and the annotations that say which is which, `train2018.json` and `val2018.json`. Classes are the
    categories by number, called as these files call them. Delivered with 224 pixels a side unless asked otherwise;
    training images are in an order in which classes take turns.

    Args:
        year: 2017, 2018 or 2019.

    Returns:
        The source, which raises a ValueError where a file is missing or does not fit the others, or images cannot be
        decoded.
    """

    def source(request: Request) -> DataSet:
        archive = ARCHIVES[year]
        root = request.folder(
            archive,
            str(year),
            source=f"{archive}.tar.gz and the annotations of https://github.com/visipedia/inat_comp/tree/master/{year}",
        )
        train, classes = _read(root, f"train{year}.json")
        test, others = _read(root, f"val{year}.json")
        if classes != others:
            raise InputError(
                f"train{year}.json and val{year}.json of {root.parent} list different categories: take both from the "
                "same archive"
            )
        train = request.selection.of(train.subset(interleaved(train.labels)), len(classes))
        size = request.image_size or SIDE
        return photographs(f"inaturalist-{year}", classes, train, test, size, root, test_is="val")

    source.__doc__ = f"Reads the competition of {year} with its official split; delivered with {SIDE} pixels a side."
    return source


def _read(root: Path, name: str) -> tuple[Listing, tuple[str, ...]]:
    """The images of one file of annotations, and the names of all categories."""
    path = next((folder / name for folder in (root.parent, root) if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            f"there is no file {name} beside {root}: put the competition's annotations there, which list the "
            "training images"
        )
    try:
        content: dict[str, list[dict[str, Any]]] = json.loads(path.read_bytes())
        names = {int(each["id"]): str(each["name"]) for each in content["categories"]}
        files = {int(each["id"]): str(each["file_name"]) for each in content["images"]}
        labels = {int(each["image_id"]): int(each["category_id"]) for each in content["annotations"]}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path} is no file of annotations, with lists of images, annotations and categories: {error!r}"
        ) from error
    if sorted(names) != list(range(len(names))):
        raise InputError(f"the categories of {path} are not numbered 0…{len(names) - 1}: it is not the official file")
    unlabelled = next((image for image in files if labels.get(image) not in names), None)
    if unlabelled is not None:
        raise InputError(
            f"{path} gives image {unlabelled} ({files[unlabelled]}) the category {labels.get(unlabelled)}, which it "
            "does not list: is it the file of test images?"
        )
    listing = Listing(
        # The first part of a name is the archive's folder, which may be called otherwise here.
        [root / file.partition("/")[2] for file in files.values()],
        np.array([labels[image] for image in files], dtype=np.int64),
    )
    return listing, tuple(names[number] for number in range(len(names)))
