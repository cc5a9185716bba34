"""Data sets by name, and loaders of their batches."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError, needing, printable

with needing("reading data sets"):
    from attention_transfer.data.dataset import DataSet, Split, check_validation_fraction, with_validation
    from attention_transfer.data.pipeline.decoding import AS_SHOWN, AS_STORED, Decoding, colour
    from attention_transfer.data.pipeline.loader import Loader, loader
    from attention_transfer.data.request import Request
    from attention_transfer.data.selection import Selection, evenly
    from attention_transfer.data.sources.cifar import SIDE as CIFAR_SIDE
    from attention_transfer.data.sources.cifar import cifar10, cifar100
    from attention_transfer.data.sources.cluttered_digits import SIDE as DIGITS_SIDE
    from attention_transfer.data.sources.cluttered_digits import cluttered_digits
    from attention_transfer.data.sources.cub200 import SIDE as CUB200_SIDE
    from attention_transfer.data.sources.cub200 import cub200
    from attention_transfer.data.sources.flowers102 import SIDE as FLOWERS_SIDE
    from attention_transfer.data.sources.flowers102 import flowers102
    from attention_transfer.data.sources.folder import SIDE as FOLDER_SIDE
    from attention_transfer.data.sources.folder import folder
    from attention_transfer.data.sources.inaturalist import ARCHIVES as INATURALIST_YEARS
    from attention_transfer.data.sources.inaturalist import SIDE as INATURALIST_SIDE
    from attention_transfer.data.sources.inaturalist import inaturalist
    from attention_transfer.data.sources.npz import npz
    from attention_transfer.data.sources.scenes import SIDE as SCENES_SIDE
    from attention_transfer.data.sources.scenes import scenes
    from attention_transfer.data.sources.stl10 import SIDE as STL10_SIDE
    from attention_transfer.data.sources.stl10 import stl10
    from attention_transfer.data.sources.tiny_imagenet import SIDE as TINY_IMAGENET_SIDE
    from attention_transfer.data.sources.tiny_imagenet import tiny_imagenet

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
    train_sample: int | None = None,
    test_limit: int | None = None,
    labelled: bool = True,
    split_seed: int | None = None,
    decoding: Literal["as-shown", "as-stored"] | None = None,
    background: str | None = None,
    seed: int = 0,
) -> DataSet:
    """Reads a data set; what it assumes or leaves out is said on standard error, and kept as the data set's `notes`.

    Args:
        name: `cluttered-digits`, `cifar10`, `cifar100`, `npz:PATH`, `folder:PATH`, `tiny-imagenet`, `cub200`,
            `flowers102`, `stl10`, `scenes`, `inaturalist-2017`, `inaturalist-2018` or `inaturalist-2019`.
        root: folder that holds, or receives, the named ones; None means the user's cache.
        image_size: side in pixels, at least 8, that images are delivered with; None keeps the data set's own.
        validation_fraction: share of the selected training images, 0 ≤ f < 1, set aside for validation.
        train_classes: only training images of the first so many classes, 1…K; None means of all K. The data set keeps
            its K classes, and the test images of the others are its split `unseen`.
        train_fraction: of every class its first training images, 0 < f ≤ 1; None means all.
        train_limit: only the first so many training images; None means all. `Selection` says more of these: they apply
            before any images are set aside for validation, the limit last.
        train_sample: about so many training images of all classes alike, at least one of each; None means all.
        test_limit: so many test images, and validation images where the data set brings them, spread evenly over all;
            None means all.
        labelled: whether labels are needed; a folder without splits is read whole where they are not.
        split_seed: of the choice of test images of a `folder:PATH` that sets none aside; None means 0.
        decoding: `as-shown` turns images of a `folder:PATH` upright and puts transparent ones on the background, as a
            viewer does; `as-stored` does neither, as torchvision's loaders. None means the former for `folder:PATH`;
            named data sets are always read as their papers' loaders do, which is the latter.
        background: colour, by name or as #rrggbb, behind transparent images of a `folder:PATH`; None means white.
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
    request = Request(
        Path(path) if colon else None,
        root,
        image_size,
        Selection(train_classes, train_fraction, train_limit, train_sample),
        test_limit,
        labelled,
        split_seed,
        _decoding(kind, decoding, background, split_seed),
    )
    dataset = DATA[kind](request)
    for note in dataset.notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    dataset = replace(
        dataset,
        train_classes=train_classes,
        test=evenly(dataset.test, test_limit),
        validation=None if dataset.validation is None else evenly(dataset.validation, test_limit),
    )
    return with_validation(dataset, validation_fraction, seed)


def _decoding(kind: str, decoding: str | None, background: str | None, split_seed: int | None) -> Decoding:
    """What is seen of files, and a refusal of settings that would have no effect."""
    given = {"decoding": decoding, "background": background, "split_seed": split_seed}
    idle = [name for name, value in given.items() if value is not None]
    if kind != "folder" and idle:
        raise InputError(
            f"{' and '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect on {kind}, which is read as its "
            "owners store it: leave out, or give a folder:PATH"
        )
    if decoding == "as-stored":
        if background is not None:
            raise InputError(f"background {background} does not show where images are read as-stored: leave one out")
        return AS_STORED
    if decoding not in (None, "as-shown"):
        raise InputError(f"decoding must be as-shown or as-stored, not {decoding!r}")
    return AS_SHOWN if background is None else Decoding(background=colour(background))
