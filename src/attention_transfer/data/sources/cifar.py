"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), downloaded by torchvision where they are missing.

>>> refuse_to_fetch("cifar10", root=Path("data"))
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: cifar10 is not in data/cifar-10-batches-py, and a run folder that ...
"""

from pathlib import Path
from typing import Literal

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from attention_transfer.data.dataset import DataSet, Split
from attention_transfer.data.request import Request
from attention_transfer.errors import InputError

SIDE = 32
# Of the training images in 0…1, rounded as the CIFAR protocols have them.
_MEAN = {10: (0.4914, 0.4822, 0.4465), 100: (0.5071, 0.4867, 0.4408)}
_STD = {10: (0.2470, 0.2435, 0.2616), 100: (0.2675, 0.2565, 0.2761)}


def cifar10(request: Request) -> DataSet:
    """50,000 + 10,000 images of 32×32 in 10 classes, both in the order of the files."""
    return _cifar(request, 10)


def cifar100(request: Request) -> DataSet:
    """50,000 + 10,000 images of 32×32 in 100 classes, both in the order of the files."""
    return _cifar(request, 100)


def refuse_to_fetch(name: str, root: Path | None) -> None:
    """Refuse one of these two where it is not on this machine, whole: reading it would download it.

    Args:
        name: of any data set; others are never downloaded.
        root: that would be given.

    Raises:
        ValueError: it would be.
    """
    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}.get(name)
    if source is None:
        return
    folder = Request(root=root).cache
    folder = folder if folder.name == source.base_folder else folder / source.base_folder
    files = [*source.train_list, *source.test_list, [source.meta["filename"], source.meta["md5"]]]
    if not all(check_integrity(str(folder / file), md5) for file, md5 in files):
        raise InputError(
            f"{name} is not in {folder}, and a run folder that names it downloads nothing by itself. Give --data "
            f"{name}, or --allow-download, to have it fetched"
        )


def _cifar(request: Request, num_classes: Literal[10, 100]) -> DataSet:
    source = datasets.CIFAR10 if num_classes == 10 else datasets.CIFAR100
    root = request.cache
    root = root.parent if root.name == source.base_folder else root
    halves: list[datasets.CIFAR10] = []
    for train in (True, False):
        try:
            halves.append(source(root, train=train))
        except RuntimeError:  # says that files are missing or damaged
            halves.append(_downloaded(source, str(root), train=train))
    train, test = (Split(np.ascontiguousarray(half.data), np.asarray(half.targets, dtype=np.int64)) for half in halves)
    return DataSet(
        name=f"cifar{num_classes}",
        classes=tuple(halves[0].classes),
        train=request.selection.of(train, num_classes),
        validation=None,
        test=test,
        mean=_MEAN[num_classes],
        std=_STD[num_classes],
        image_size=request.image_size or SIDE,
        photographs=False,
    )


def _downloaded(source: type[datasets.CIFAR10], root: str, *, train: bool) -> datasets.CIFAR10:
    try:
        return source(root, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{source.filename} is not in {root} and could not be downloaded from {source.url} ({error}): "
            f"put the file there, or give the root that holds it"
        ) from error
