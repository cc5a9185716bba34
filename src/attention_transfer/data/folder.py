"""A user's own image files: a folder with `train/` and `val/`, each with one folder per class, or without labels."""

from pathlib import Path

import numpy as np

from attention_transfer.data.dataset import IMAGENET_MEAN, IMAGENET_STD, PHOTOGRAPH_SIDE, DataSet, interleaved
from attention_transfer.data.files import SUFFIXES, Listing, delivered, read, stored
from attention_transfer.data.request import Request
from attention_transfer.errors import InputError

SIDE = 224


def folder(request: Request) -> DataSet:
    """Reads `train/CLASS/…` and `val/CLASS/…`; classes are sorted by name, and files may lie in subfolders.

    Images are delivered with 224 pixels a side unless asked otherwise, normalised as for ImageNet. Those of up to 64
    pixels count as small images, which are shifted rather than cropped at random sizes. Training images are in an
    order in which classes take turns.

    A folder with neither `train` nor `val` holds images without labels: all that lie in it, at any depth, are training
    images, in the order of their names, and none is a test image. Only a pre-training can learn from these.

    Raises:
        ValueError: a folder is missing or empty, the classes of `train` and `val` differ, or files cannot be decoded.
    """
    place = request.place
    image_size = request.image_size or SIDE
    photographs = image_size > PHOTOGRAPH_SIDE
    if not any((place / part).is_dir() for part in ("train", "val")) and (paths := _images(place)):
        return _unlabelled(request, paths, image_size, photographs=photographs)
    names = {part: _classes(place / part) for part in ("train", "val")}
    if names["train"] != names["val"]:
        only = [
            f"only {part} has {', '.join(sorted(set(names[part]) - set(names[other]))[:10])}"
            for part, other in (("train", "val"), ("val", "train"))
            if set(names[part]) - set(names[other])
        ]
        raise InputError(f"train and val of {place} hold different classes ({'; '.join(only)}): give both the same")
    train, test = (_listing(place / part, names[part]) for part in ("train", "val"))
    train = request.selection.of(train.subset(interleaved(train.labels)), len(names["train"]))
    return DataSet(
        name=f"folder:{request.path}",
        classes=names["train"],
        train=read(
            train,
            stored(image_size, photographs=photographs),
            image_size=image_size,
            photographs=photographs,
            what=f"images in {place / 'train'}",
        ),
        validation=None,
        test=read(
            test,
            delivered(image_size, photographs=photographs),
            image_size=image_size,
            photographs=photographs,
            what=f"images in {place / 'val'}",
        ),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=image_size,
        photographs=photographs,
    )


def _unlabelled(request: Request, paths: list[Path], image_size: int, *, photographs: bool) -> DataSet:
    everything = Listing(paths, np.zeros(len(paths), dtype=np.int64))
    train = read(
        request.selection.of(everything, 1),
        stored(image_size, photographs=photographs),
        image_size=image_size,
        photographs=photographs,
        what=f"images in {request.place}",
    )
    return DataSet(
        name=f"folder:{request.path}",
        classes=("unlabelled",),
        train=train,
        validation=None,
        test=train.subset(np.zeros(0, dtype=np.int64)),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=image_size,
        photographs=photographs,
        labelled=False,
    )


def _images(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _classes(place: Path) -> tuple[str, ...]:
    if not place.is_dir():
        raise InputError(
            f"there is no folder {place}: a data folder holds train/ and val/, each with a folder per class"
        )
    names = tuple(sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if not names:
        raise InputError(f"{place} is empty: it should hold one folder of images for each class")
    return names


def _listing(place: Path, names: tuple[str, ...]) -> Listing:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = _images(place / name)
        if not files:
            raise InputError(f"{place / name} holds no images: add some, or remove the class from train and val")
        paths += files
        labels += [label] * len(files)
    return Listing(paths, np.array(labels, dtype=np.int64))
