"""Your own image files (`folder:PATH`): `train/` and `val/` with one folder per class, or images without labels.

>>> from tempfile import TemporaryDirectory
>>> from PIL import Image
>>> with TemporaryDirectory() as name:
...     for split in ("train", "val"):
...         for animal in ("cat", "dog"):
...             (Path(name) / split / animal).mkdir(parents=True)
...             Image.new("RGB", (32, 32)).save(Path(name) / split / animal / "1.png")
...     folder(Request(Path(name), image_size=32)).splits
{'train': Split(2 images of 32×32×3, 2 classes), 'test': Split(2 images of 32×32×3, 2 classes)}
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64

from attention_transfer.counter_rng import uniform
from attention_transfer.data.dataset import IMAGENET_MEAN, IMAGENET_STD, PHOTOGRAPH_SIDE, DataSet, Split, interleaved
from attention_transfer.data.names import is_text, listed, shown
from attention_transfer.data.pipeline.image_files import Form, Listing, delivered, read, stored
from attention_transfer.data.pipeline.split_folders import (
    ClassFolders,
    Layout,
    class_folders,
    classes_of,
    differing_in_case,
    layout,
    matched,
    refuse_nested_splits,
)
from attention_transfer.data.pipeline.walking import Others, entries, images_below
from attention_transfer.data.request import Request
from attention_transfer.data.selection import evenly
from attention_transfer.errors import InputError

SIDE = 224
TEST_SHARE = 0.2  # of each class, where there is no test split

_CHOOSING = 8  # the stream of the hash that chooses test images

Classes = tuple[str, ...]


def folder(request: Request) -> DataSet:
    """Reads `train/CLASS/…` and `val/CLASS/…`; classes are sorted by name, and files may lie in subfolders.

    Other names of the parts are `training`, `valid`, `validation`, `dev`, `eval`, `test` and `testing`, also with words
    such as `set` or `images` beside them, as in `test_set`; other folders of images are named and not read. Where there
    is one part beside the training images it is measured on; of two, `val` becomes the validation split. Where there is
    none, a fifth of each class (rounded, but at least one of two) is set aside by `split_seed`. Classes are those of
    the training images; the other parts may lack some.

    Hidden files and what systems leave behind are passed by, links are followed. Files are seen as a viewer shows them:
    upright, on a background, in 8 bits (16-bit values are divided by 257). Images are delivered with 224 pixels a side
    unless asked otherwise, normalised as for ImageNet. Those of up to 64 pixels count as small images, which are
    shifted rather than cropped at random sizes. Training images are in an order in which classes take turns.

    A folder without class folders holds images without labels, as does any without parts where no labels are needed:
    all that lie in it, at any depth, are training images, in the order of their names, and none is a test image. These
    are for pre-training only.

    Raises:
        ValueError: a folder is missing, empty or ambiguous, the classes do not fit, or files cannot be decoded.
    """
    root = request.own_folder
    if not is_text(str(request.path)):
        raise InputError(f"the path {shown(root)} is no text in UTF-8, and no run could be recorded: rename it")
    found = layout(root)
    if found.train is None and (found.validation or found.test):
        raise InputError(
            f"there is no folder {shown(root / 'train')}: a data folder holds train/ and val/, each with a folder per "
            "class"
        )
    train = class_folders(found.train or root) if found.split or request.labelled else None
    if train is None or not (train.filled or (found.split and request.labelled)):
        unlabelled = _unlabelled(request, found.train or root)
        if unlabelled is not None:
            return unlabelled
    return _labelled(request, found, train or class_folders(found.train or root))


def _labelled(request: Request, found: Layout, train: ClassFolders) -> DataSet:
    if found.train is None:
        refuse_nested_splits(train)
    classes = classes_of(train)
    notes = [*train.notes(), *differing_in_case(classes)]
    if request.labelled and len(classes) == 1:
        notes.append(_of_a_single_class(train))
    listing, validation, test_is = _listing(train.images, classes), None, "test"
    if found.unread:
        names = listed([folder.name for folder in found.unread], len(found.unread))
        notes.append(f"not read, as their names are not those of train, val or test: {names} in {shown(found.root)}")
    if found.split:
        if request.split_seed is not None:
            raise InputError(
                f"{shown(found.root)} sets its own images aside, on which split_seed {request.split_seed} has no "
                "effect: leave it out"
            )
        parts, left_out = _held_out(found, classes, train)
        notes += left_out
        test_is, test = parts.popitem()
        validation = next(iter(parts.values()), None)
    else:
        seed = request.split_seed or 0
        chosen = _chosen_for_testing(listing.labels, seed)
        if not chosen.any():
            raise InputError(
                f"{shown(train.root)} holds one image of each class, of which none can be set aside to measure on: "
                "give more, or train/ and val/"
            )
        test = listing.subset(np.flatnonzero(chosen))
        notes.append(
            f"{shown(found.root)} sets no images aside: {len(test.paths)} of {len(listing.paths)} are test images and "
            f"no training images, {TEST_SHARE:.0%} of each class chosen by split_seed {seed}; to choose "
            "them yourself, give train/ and val/"
        )
        listing = listing.subset(np.flatnonzero(~chosen))
    missing = [name for label, name in enumerate(classes) if label not in test.labels]
    if missing:
        notes.append(
            f"no images are measured of {len(missing)} of {len(classes)} classes: {listed(missing, len(missing))}"
        )
    listing = request.selection.of(listing.subset(interleaved(listing.labels)), len(classes))
    side, photographs = _side(request)
    seen = delivered(side, photographs=photographs, decoding=request.decoding)
    root = found.root
    return _dataset(
        request,
        tuple(shown(name) for name in classes),
        _read(request, listing, None, train.root, classes),
        None if validation is None else _read(request, validation, seen, found.validation or root, classes),
        _read(request, test, seen, root / test_is if found.split else root, classes),
        notes=tuple(notes),
        test_is=test_is,
    )


def _of_a_single_class(train: ClassFolders) -> str:
    """A note that there is one class, and which folders may be the classes instead."""
    root = train.root / train.filled[0]
    inside = entries(root)
    folders = listed([folder.name for folder in inside.folders], len(inside.folders), most=3)
    way = f"; if {folders} are the classes, move them to {shown(train.root)}" if len(inside.folders) > 1 else ""
    return f"{shown(train.root)} holds a single class, {shown(root.name)}, so that there is nothing to classify{way}"


def _unlabelled(request: Request, root: Path) -> DataSet | None:
    """All images below a folder; None if there are none."""
    others = Others()
    paths = images_below(root, others)
    if not paths:
        return None
    note = others.note(root)
    everything = request.selection.of(Listing(paths, np.zeros(len(paths), dtype=np.int64)), 1)
    train = _read(request, everything, None, root, ())
    nothing = train.subset(np.zeros(0, dtype=np.int64))
    notes = () if note is None else (note,)
    return _dataset(request, ("unlabelled",), train, None, nothing, notes=notes, labelled=False)


def _held_out(found: Layout, classes: Classes, train: ClassFolders) -> tuple[dict[str, Listing], list[str]]:
    """Held-out splits by the names of their folders, the test split last; and notes of what is left out."""
    parts: dict[str, Listing] = {}
    notes: list[str] = []
    for part in (found.validation, found.test):
        if part is None:
            continue
        folders = class_folders(part)
        if part == found.test and found.validation is not None and not set(folders.filled) & set(classes):
            # As the test images of a competition, which are published without classes.
            notes.append(
                f"{shown(part)} has no images in folders of the classes and is left out: {found.validation.name} is "
                "the test split instead"
            )
            continue
        parts[part.name] = _listing(matched(folders, classes, found.train or found.root), classes)
        same = folders.shared_with(train)
        notes += [*folders.notes(), *([] if same is None else [same])]
    return parts, notes


def _chosen_for_testing(labels: Int64[np.ndarray, " n"], seed: int) -> Bool[np.ndarray, " n"]:
    """Which images are held out for testing: the same share of each class, those with the lowest draws."""
    draws = uniform(seed, _CHOOSING, torch.arange(len(labels))).numpy()
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        share = max(int(TEST_SHARE * len(own) + 0.5), 1) if len(own) > 1 else 0
        chosen[own[np.argsort(draws[own], kind="stable")[:share]]] = True
    return chosen


def _listing(images: Mapping[str, list[Path]], classes: Classes) -> Listing:
    paths = [path for name in classes for path in images.get(name, ())]
    labels = [label for label, name in enumerate(classes) for _ in images.get(name, ())]
    return Listing(paths, np.array(labels, dtype=np.int64))


def _side(request: Request) -> tuple[int, bool]:
    """Side of the images in pixels, and whether they are photographs."""
    side = request.image_size or SIDE
    return side, side > PHOTOGRAPH_SIDE


def _read(request: Request, listing: Listing, form: Form | None, root: Path, classes: Classes) -> Split:
    """A listing in a form, which is that of training images if not given."""
    side, photographs = _side(request)
    if form is None:
        form = stored(side, photographs=photographs, decoding=request.decoding)
    else:
        listing = evenly(listing, request.test_limit)
    what = f"images in {root}"
    return read(listing, form, image_size=side, photographs=photographs, what=what, classes=classes)


def _dataset(
    request: Request,
    classes: Classes,
    train: Split,
    validation: Split | None,
    test: Split,
    *,
    notes: tuple[str, ...],
    test_is: str = "test",
    labelled: bool = True,
) -> DataSet:
    side, photographs = _side(request)
    return DataSet(
        name=f"folder:{request.path}",
        classes=classes,
        train=train,
        validation=validation,
        test=test,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=side,
        photographs=photographs,
        labelled=labelled,
        decoding=request.decoding,
        test_is=test_is,
        notes=notes,
    )
