"""Registry of data sets, by the names that `load` and `--data` take.

>>> load("cifar-100")
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: there is no data set 'cifar-100': choose one of cluttered-digits, cifar10, ...
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from attention_transfer.data.dataset import DataSet, check_validation_fraction, with_validation
from attention_transfer.data.pipeline.decoding import AS_SHOWN, AS_STORED, Decoding, colour
from attention_transfer.data.request import Request
from attention_transfer.data.selection import Selection, evenly
from attention_transfer.data.sources import (
    cifar,
    cluttered_digits,
    cub200,
    flowers102,
    folder,
    inaturalist,
    npz,
    scenes,
    stl10,
    tiny_imagenet,
)
from attention_transfer.errors import InputError, printable

# Reader of each data set, and side of its images in pixels without image_size; None if only the files say.
_SOURCES: dict[str, tuple[Callable[[Request], DataSet], int | None]] = {
    "cluttered-digits": (cluttered_digits.cluttered_digits, cluttered_digits.SIDE),
    "cifar10": (cifar.cifar10, cifar.SIDE),
    "cifar100": (cifar.cifar100, cifar.SIDE),
    "npz": (npz.npz, None),
    "folder": (folder.folder, folder.SIDE),
    "tiny-imagenet": (tiny_imagenet.tiny_imagenet, tiny_imagenet.SIDE),
    "cub200": (cub200.cub200, cub200.SIDE),
    "flowers102": (flowers102.flowers102, flowers102.SIDE),
    "stl10": (stl10.stl10, stl10.SIDE),
    "scenes": (scenes.scenes, scenes.SIDE),
    **{f"inaturalist-{year}": (inaturalist.inaturalist(year), inaturalist.SIDE) for year in inaturalist.ARCHIVES},
}

DATA = {name: source for name, (source, _) in _SOURCES.items()}
"""The reader of each data set, by name."""

OWN_SIDES = {name: side for name, (_, side) in _SOURCES.items()}
"""Sides in pixels of the images without `image_size`, by name; None if only the files say."""


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
    """Read a data set; what is assumed or left out is printed on standard error, and kept in its `notes`.

    Args:
        name: `cluttered-digits`, `cifar10`, `cifar100`, `npz:PATH`, `folder:PATH`, `tiny-imagenet`, `cub200`,
            `flowers102`, `stl10`, `scenes`, `inaturalist-2017`, `inaturalist-2018` or `inaturalist-2019`.
        root: folder that holds, or receives, data sets with a name; None means the user's cache.
        image_size: side in pixels, at least 8, that images are resized to; None keeps the data set's own.
        validation_fraction: share of the selected training images, 0 ≤ f < 1, held out for validation.
        train_classes: only training images of the first N classes, 1…K; None means of all K. The data set keeps its K
            classes, and the test images of the others are its split `unseen`.
        train_fraction: share of each class's training images, 0 < f ≤ 1, the first of them; None means all.
        train_limit: the first N training images; None means all. `Selection` says more of these four: they apply before
            any images are held out for validation, the limit last.
        train_sample: about N training images, the same number of each class and at least one; None means all.
        test_limit: N test images, and validation images where the data set brings them, spread evenly; None means all.
        labelled: whether labels are needed; if not, a folder without splits is read whole.
        split_seed: seed of the choice of test images of a `folder:PATH` without a test split; None means 0.
        decoding: `as-shown` applies the EXIF orientation to images of a `folder:PATH` and puts transparent ones on the
            background, as a viewer does; `as-stored` does neither, as torchvision's loaders. None means as-shown for
            `folder:PATH`; named data sets are always read as-stored, as their papers' loaders do.
        background: colour, by name or as #rrggbb, behind transparent images of a `folder:PATH`; None means white.
        seed: seed of the choice of validation images; nothing else depends on it.

    Raises:
        ValueError: an argument is out of range, or the data set is missing, empty or damaged.
    """
    check_validation_fraction(validation_fraction)
    kind, path = _kind_and_path(name)
    request = Request(
        path,
        root,
        image_size,
        Selection(train_classes, train_fraction, train_limit, train_sample),
        test_limit,
        labelled,
        split_seed,
        _decoding(kind, decoding, background, split_seed),
    )
    dataset = replace(_read(kind, request), train_classes=train_classes)
    return with_validation(dataset, validation_fraction, seed)


def _kind_and_path(name: str) -> tuple[str, Path | None]:
    """The source of a data set, and the user's path where it takes one."""
    kind, colon, path = name.partition(":")
    if kind not in DATA:
        raise InputError(f"there is no data set '{name}': choose one of {', '.join(DATA)} (npz:PATH, folder:PATH)")
    if bool(path) != (kind in ("npz", "folder")):
        wanted = f"{kind}:PATH" if not path else kind
        raise InputError(f"data set '{name}' should be written {wanted}")
    return kind, Path(path) if colon else None


def _read(kind: str, request: Request) -> DataSet:
    dataset = DATA[kind](request)
    for note in dataset.notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    limit, validation = request.test_limit, dataset.validation
    return replace(
        dataset,
        test=evenly(dataset.test, limit),
        validation=None if validation is None else evenly(validation, limit),
    )


def _decoding(kind: str, decoding: str | None, background: str | None, split_seed: int | None) -> Decoding:
    """How files are decoded; settings that would have no effect are refused."""
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
