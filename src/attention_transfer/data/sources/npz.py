"""Your own images as NumPy arrays (`npz:PATH`): `train.npz` and `test.npz` or `val.npz`, or all three.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as name:
...     for split in ("train", "val"):
...         images, labels = np.full((6, 16, 16, 3), 128, np.uint8), np.array([1, 2, 3, 1, 2, 3])
...         np.savez(f"{name}/{split}.npz", images=images, labels=labels)
...     dataset = npz(Request(Path(name)))
>>> dataset.num_classes, dataset.test_is, dataset.notes[0].partition("count")[2]
(3, 'val', ' from 1, to 3: label 1 is the first of 3 classes')
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from attention_transfer.data.dataset import PHOTOGRAPH_SIDE, DataSet, scaled_boxes
from attention_transfer.data.names import listed, shown
from attention_transfer.data.pipeline.array_files import ArrayFile, read_arrays
from attention_transfer.data.pipeline.split_folders import TEST, TRAIN, VALIDATION
from attention_transfer.data.request import Request
from attention_transfer.errors import InputError

_MOST_CLASSES = 1_000_000  # more are numbers of something else


def npz(request: Request) -> DataSet:
    """Reads `images` (uint8, N×H×W×3 or N×H×W grey, square), `labels` (integers), and optional `classes` and `boxes`.

    Other keys are ignored. `classes` are names, read from `train.npz`; without them classes are numbered up to the
    largest training label. Labels may count from 1, which is noted. `boxes` are left, top, right,
    bottom in pixels, the last two exclusive. Images are normalised by mean and standard deviation of all training
    images. Files are known by the names that `folder` has for its parts; of two beside the training images, `val` is
    the validation split.

    Raises:
        ValueError: a file or key is missing, or does not hold what it should.
    """
    train_file, *others = _files(request.own_folder)
    train, held_out = read_arrays(train_file), [read_arrays(path) for path in others]
    if not train.names and train.labels.max() >= _MOST_CLASSES:
        raise InputError(
            f"'labels' of {shown(train_file)} go up to {train.labels.max():,}, and classes are numbered from 0 without "
            "a gap: number them anew, as numpy.unique(labels, return_inverse=True) does"
        )
    first, notes = _first_label(train, held_out)
    classes = train.names or tuple(str(label) for label in range(first, int(train.labels.max()) + 1))
    for file in (train, *held_out):
        _check_labels(file, first, len(classes), named=bool(train.names))
        _check_names(file, train)
        if file.side != train.side:
            raise InputError(
                f"{shown(file.path)} holds images of side {file.side}, but {train_file.name} of {train.side}: resize "
                "one"
            )
    unused = sorted(set(range(len(classes))) - set(np.unique(train.labels - first).tolist()))
    if unused and not train.names:
        notes.append(f"no training image has label {listed([u + first for u in unused], len(unused))}")
    notes += _unclear_names(train.names)
    size = request.image_size or train.side
    mean, std = _statistics(train.images)
    splits = [scaled_boxes(file.split(first), size / train.side) for file in (train, *held_out)]
    return DataSet(
        name=f"npz:{request.path}",
        classes=classes,
        train=request.selection.of(splits[0], len(classes)),
        validation=splits[1] if len(splits) > 2 else None,
        test=splits[-1],
        mean=mean,
        std=std,
        image_size=size,
        photographs=train.side > PHOTOGRAPH_SIDE,
        test_is=others[-1].stem,
        notes=tuple(notes),
    )


def _files(folder: Path) -> list[Path]:
    """Training images, validation images where there are others to test on, and test images."""
    found: dict[str, Path] = {}
    for role, names in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        paths = [folder / f"{name}.npz" for name in names if (folder / f"{name}.npz").is_file()]
        if len(paths) > 1:
            raise InputError(
                f"{shown(folder)} holds {' and '.join(path.name for path in paths)}, and only one of them can be its "
                f"{role} images: rename or remove the others"
            )
        if paths:
            found[role] = paths[0]
    if "train" not in found or len(found) == 1:
        names = sorted(path.name for path in folder.iterdir())
        raise InputError(
            f"{shown(folder)} must hold train.npz and test.npz or val.npz, but holds "
            f"{listed(names, len(names)) or 'nothing'}"
        )
    return list(found.values())


def _first_label(train: ArrayFile, held_out: list[ArrayFile]) -> tuple[int, list[str]]:
    """0 or 1, and a sentence where it is not 0."""
    everything = (train, *held_out)
    most = int(train.labels.max())
    if any(file.labels.min() < 1 or file.labels.max() > most for file in everything):
        return 0, []
    counts_from_one = most == len(train.names) if train.names else len(np.unique(train.labels)) == most
    if not counts_from_one:
        return 0, []
    return 1, [f"labels of {shown(train.path)} count from 1, to {most}: label 1 is the first of {most} classes"]


def _check_labels(file: ArrayFile, first: int, num_classes: int, *, named: bool) -> None:
    labels = file.labels - first
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        what = "'classes' names" if named else "the training labels use"
        raise InputError(
            f"label {file.labels[wrong[0]]} of image {wrong[0]} in {shown(file.path)} is outside "
            f"{first}…{first + num_classes - 1}: {what} {num_classes} classes, numbered from {first}; {len(wrong)} "
            "labels do not fit"
        )


def _check_names(file: ArrayFile, train: ArrayFile) -> None:
    if file.names and file.names != train.names:
        raise InputError(
            f"'classes' of {shown(file.path)} are {listed(file.names, len(file.names))}, but of {train.path.name} "
            f"{listed(train.names, len(train.names)) or 'not given'}: give both the same, in the same order"
        )


def _unclear_names(names: Sequence[str]) -> list[str]:
    """Notes on classes without a name, and on classes with the same name."""
    nameless = [str(label) for label, name in enumerate(names) if not name.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    notes = [f"classes without a name: {listed(nameless, len(nameless))}"] if nameless else []
    return notes + ([f"several classes are called {listed(twice, len(twice))} and count as different"] if twice else [])


def _statistics(
    images: UInt8[np.ndarray, "n h w 3"],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel in 0…1, from exact integer sums; a constant deviates by 1."""
    means: list[float] = []
    deviations: list[float] = []
    for channel in range(3):
        counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
        levels = np.arange(256)
        num, total, squares = (int((counts * levels**power).sum()) for power in range(3))
        means.append(total / num / 255)
        variance = (num * squares - total * total) / num**2
        deviations.append(variance**0.5 / 255 or 1.0)
    return (means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2])
