"""Data sets by name, and loaders of their batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from attention_transfer.data.arrays import npz
from attention_transfer.data.batch import Batch
from attention_transfer.data.cifar import SIDE as CIFAR_SIDE
from attention_transfer.data.cifar import cifar10, cifar100
from attention_transfer.data.cluttered_digits import SIDE as DIGITS_SIDE
from attention_transfer.data.cluttered_digits import cluttered_digits
from attention_transfer.data.cub200 import SIDE as CUB200_SIDE
from attention_transfer.data.cub200 import cub200
from attention_transfer.data.dataset import DataSet, Split, check_validation_fraction, with_validation
from attention_transfer.data.flowers102 import SIDE as FLOWERS_SIDE
from attention_transfer.data.flowers102 import flowers102
from attention_transfer.data.folder import SIDE as FOLDER_SIDE
from attention_transfer.data.folder import folder
from attention_transfer.data.inaturalist import ARCHIVES as INATURALIST_YEARS
from attention_transfer.data.inaturalist import SIDE as INATURALIST_SIDE
from attention_transfer.data.inaturalist import inaturalist
from attention_transfer.data.loading import Loader, loader
from attention_transfer.data.request import Request
from attention_transfer.data.scenes import SIDE as SCENES_SIDE
from attention_transfer.data.scenes import scenes
from attention_transfer.data.selection import Selection
from attention_transfer.data.stl10 import SIDE as STL10_SIDE
from attention_transfer.data.stl10 import stl10
from attention_transfer.data.tiny_imagenet import SIDE as TINY_IMAGENET_SIDE
from attention_transfer.data.tiny_imagenet import tiny_imagenet
from attention_transfer.errors import InputError

__all__ = ["DATA", "OWN_SIDES", "Batch", "DataSet", "Loader", "Split", "load", "loader"]

DATA: dict[str, Callable[[Request], DataSet]] = {
    "cluttered-digits": cluttered_digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "npz": npz,
    "folder": folder,
    "tiny-imagenet": tiny_imagenet,
    "cub200": cub200,
    "flowers102": flowers102,
    "stl10": stl10,
    "scenes": scenes,
    **{f"inaturalist-{year}": inaturalist(year) for year in INATURALIST_YEARS},
}

OWN_SIDES: dict[str, int | None] = {
    "cluttered-digits": DIGITS_SIDE,
    "cifar10": CIFAR_SIDE,
    "cifar100": CIFAR_SIDE,
    "npz": None,
    "folder": FOLDER_SIDE,
    "tiny-imagenet": TINY_IMAGENET_SIDE,
    "cub200": CUB200_SIDE,
    "flowers102": FLOWERS_SIDE,
    "stl10": STL10_SIDE,
    "scenes": SCENES_SIDE,
    **{f"inaturalist-{year}": INATURALIST_SIDE for year in INATURALIST_YEARS},
}
"""Sides of the images that they deliver where nobody asks for another; None where only their files say."""


def load(
    name: str,
    *,
    root: Path | None = None,
    image_size: int | None = None,
    validation_fraction: float = 0.0,
    train_classes: int | None = None,
    train_fraction: float | None = None,
    train_limit: int | None = None,
    seed: int = 0,
) -> DataSet:
    """Reads a data set.

    Args:
        name: `cluttered-digits`, `cifar10`, `cifar100`, `npz:PATH`, `folder:PATH`, `tiny-imagenet`, `cub200`,
            `flowers102`, `stl10`, `scenes`, `inaturalist-2017`, `inaturalist-2018` or `inaturalist-2019`.
        root: folder that holds, or receives, the named ones; None means the user's cache.
        image_size: side in pixels, at least 8, that images are delivered with; None keeps the data set's own.
        validation_fraction: share of the selected training images, 0 ≤ f < 1, set aside for validation.
        train_classes: only training images of the first so many classes, 1…K; None means of all K. The data set keeps
            its K classes, and the test images of the others are its split `unseen`.
        train_fraction: of every class its first training images, 0 < f ≤ 1; None means all.
        train_limit: only the first so many training images; None means all. `Selection` says more of these three: they
            apply in the order in which they stand here, and before any images are set aside.
        seed: of the choice of validation images; nothing else depends on it.

    Raises:
        ValueError: an argument is out of range, or the data set is missing, empty or damaged.
    """
    kind, colon, path = name.partition(":")
    if kind not in DATA:
        raise InputError(f"there is no data set '{name}': choose one of {', '.join(DATA)} (npz:PATH, folder:PATH)")
    if bool(path) != (kind in ("npz", "folder")):
        wanted = f"{kind}:PATH" if not path else kind
        raise InputError(f"data set '{name}' should be written {wanted}")
    check_validation_fraction(validation_fraction)
    selection = Selection(train_classes, train_fraction, train_limit)
    dataset = DATA[kind](Request(Path(path) if colon else None, root, image_size, selection))
    return with_validation(replace(dataset, train_classes=train_classes), validation_fraction, seed)
