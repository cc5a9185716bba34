"""Data sets by name, and loaders of their batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from attention_transfer.data.arrays import npz
from attention_transfer.data.batch import Batch
from attention_transfer.data.cifar import cifar10, cifar100
from attention_transfer.data.cluttered_digits import cluttered_digits
from attention_transfer.data.cub200 import cub200
from attention_transfer.data.dataset import DataSet, Split, with_validation
from attention_transfer.data.folder import folder
from attention_transfer.data.loading import Loader, loader
from attention_transfer.data.request import Request
from attention_transfer.data.tiny_imagenet import tiny_imagenet

__all__ = ["DATA", "Batch", "DataSet", "Loader", "Split", "load", "loader"]

SMALLEST_SIDE = 8

DATA: dict[str, Callable[[Request], DataSet]] = {
    "cluttered-digits": cluttered_digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "npz": npz,
    "folder": folder,
    "tiny-imagenet": tiny_imagenet,
    "cub200": cub200,
}


def load(
    name: str,
    *,
    root: Path | None = None,
    image_size: int | None = None,
    validation_fraction: float = 0.0,
    train_limit: int | None = None,
    seed: int = 0,
) -> DataSet:
    """Reads a data set.

    Args:
        name: `cluttered-digits`, `cifar10`, `cifar100`, `npz:PATH`, `folder:PATH`, `tiny-imagenet` or `cub200`.
        root: folder that holds, or receives, the named ones; None means the user's cache.
        image_size: side in pixels, at least 8, that images are delivered with; None keeps the data set's own.
        validation_fraction: share of the training images, 0 ≤ f < 1, set aside for validation.
        train_limit: only the first so many training images, counted before any are set aside; None means all.
        seed: of the choice of validation images; nothing else depends on it.

    Raises:
        ValueError: an argument is out of range, or the data set is missing, empty or damaged.
    """
    kind, colon, path = name.partition(":")
    if kind not in DATA:
        raise ValueError(f"there is no data set '{name}': choose one of {', '.join(DATA)} (npz:PATH, folder:PATH)")
    if bool(path) != (kind in ("npz", "folder")):
        wanted = f"{kind}:PATH" if not path else kind
        raise ValueError(f"data set '{name}' should be written {wanted}")
    if image_size is not None and image_size < SMALLEST_SIDE:
        raise ValueError(f"image_size must be at least {SMALLEST_SIDE} pixels, not {image_size}")
    if train_limit is not None and train_limit < 1:
        raise ValueError(f"train_limit must leave at least one training image, not {train_limit}")
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction is a share of the training images, 0 ≤ f < 1, not {validation_fraction}")
    dataset = DATA[kind](Request(Path(path) if colon else None, root, image_size, train_limit))
    if train_limit is not None and train_limit < len(dataset.train):
        dataset = replace(dataset, train=dataset.train.subset(np.arange(train_limit)))
    return with_validation(dataset, validation_fraction, seed)
