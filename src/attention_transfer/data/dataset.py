"""Data set and its splits: images, class indices, bounding boxes and normalisation.

>>> labels = np.array([0, 0, 0, 1, 1])
>>> Split(np.zeros((5, 8, 8, 3), np.uint8), labels).subset(np.array([0, 4]))
Split(2 images of 8×8×3, 2 classes)
>>> turns(labels).tolist(), interleaved(labels).tolist()
([0, 1, 2, 0, 1], [0, 3, 1, 4, 2])
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64, UInt8

from attention_transfer.counter_rng import uniform
from attention_transfer.data.pipeline.decoding import AS_SHOWN, Decoding
from attention_transfer.errors import InputError
from attention_transfer.models.class_names import are_numbered

# Mean and deviation of the training images of ImageNet, as torchvision publishes them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PHOTOGRAPH_SIDE = 64  # pixels: larger images count as photographs, with random resized crops; smaller ones are shifted

_VALIDATION = 1  # the stream of the hash that chooses validation images


@dataclass(frozen=True)
class Split:
    """Images with their labels, in a fixed order.

    Args:
        images: in memory, or files that a loader decodes.
        labels: class indices.
        boxes: where the object is: left, top, right, bottom (the last two exclusive) in pixels of the image as an
            evaluation loader delivers it, clipped to it; NaN where unknown. None where the data set has none.
        sizes: height and width of each image, which lies in the upper left corner of its canvas; None where images
            fill theirs.
    """

    images: UInt8[np.ndarray, "n h w 3"] | tuple[Path, ...]
    labels: Int64[np.ndarray, " n"]
    boxes: Float32[np.ndarray, "n 4"] | None = None
    sizes: Int32[np.ndarray, "n 2"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        """How many images of how many classes, without a pixel of them."""
        images = self.images
        kind = "files" if isinstance(images, tuple) else "images of " + "×".join(map(str, images.shape[1:]))
        boxes = "" if self.boxes is None else ", with boxes"
        return f"Split({len(self)} {kind}, {len(np.unique(self.labels))} classes{boxes})"

    def subset(self, index: Int64[np.ndarray, " m"]) -> "Split":
        """The images at these positions, in this order."""
        images = self.images
        return Split(
            tuple(images[i] for i in index.tolist()) if isinstance(images, tuple) else images[index],
            self.labels[index],
            None if self.boxes is None else self.boxes[index],
            None if self.sizes is None else self.sizes[index],
        )


@dataclass(frozen=True)
class DataSet:
    """Splits of one data set.

    Args:
        name: as a user writes it.
        classes: class names; class index k is the k-th.
        train: training split.
        validation: split that may select a model; None if nothing was held out.
        test: split that selects nothing.
        mean: of the colour channels, images in 0…1.
        std: of the colour channels, images in 0…1.
        image_size: side in pixels of the squares that loaders deliver.
        photographs: whether training crops are of random size and shape (`augment="auto"`).
        mirrored: whether a mirror image still belongs to its class (`augment="auto"`).
        train_classes: training images show only the first N classes; None means all.
        labelled: whether there are labels; without them there is one class, and there are no test images.
        decoding: how image files are decoded.
        test_is: the owner's name of the test split: `val` where there is no other.
        notes: what was assumed or left out, in sentences for the user.
        numerals: whether the classes are numerals (digits), rather than numbered for want of names.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split | None
    test: Split
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    photographs: bool
    mirrored: bool = True
    train_classes: int | None = None
    labelled: bool = True
    decoding: Decoding = AS_SHOWN
    test_is: str = "test"
    notes: tuple[str, ...] = ()
    numerals: bool = False

    def __repr__(self) -> str:
        """Name, splits and size, without a pixel of them."""
        splits = ", ".join(f"{name}={split!r}" for name, split in self.splits.items())
        return f"DataSet({self.name!r}, {self.num_classes} classes, {self.image_size} pixels a side, {splits})"

    @property
    def named(self) -> bool:
        """Whether classes have names that can be compared with those of others."""
        return self.numerals or not are_numbered(self.classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def unseen(self) -> Split | None:
        """Test images of the classes that `train_classes` leaves out; None if it leaves out none."""
        if self.train_classes is None or self.train_classes >= self.num_classes:
            return None
        return self.test.subset(np.flatnonzero(self.test.labels >= self.train_classes))

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test, "unseen": self.unseen}
        return {name: split for name, split in splits.items() if split is not None}


def check_validation_fraction(fraction: float) -> None:
    """Refuse an invalid share of validation images, before any image is read.

    Raises:
        ValueError: it is not in 0 ≤ f < 1.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"validation_fraction must be 0 ≤ f < 1, a share of the training images, not {fraction}")


def with_validation(dataset: DataSet, fraction: float, seed: int) -> DataSet:
    """Move a share of the training images to the validation split: a function of (seed, dataset index).

    Args:
        dataset: without a validation split.
        fraction: expected share 0 ≤ f < 1; 0 leaves everything as it is.
        seed: seed of the choice.

    Raises:
        ValueError: one of the two splits would be empty.
    """
    num_images = len(dataset.train)
    if fraction == 0:
        return dataset
    if dataset.validation is not None:
        raise InputError(
            f"{dataset.name} brings {len(dataset.validation)} validation images of its own: leave out "
            f"validation_fraction={fraction}"
        )
    chosen = (uniform(seed, _VALIDATION, torch.arange(num_images)) < fraction).numpy()
    if chosen.all() or not chosen.any():
        raise InputError(
            f"validation_fraction={fraction} of the {num_images} training images of {dataset.name} puts all of them "
            f"on one side: choose another fraction, or 0 to do without validation"
        )
    return replace(
        dataset,
        train=dataset.train.subset(np.flatnonzero(~chosen)),
        validation=dataset.train.subset(np.flatnonzero(chosen)),
    )


def scaled_boxes(split: Split, factor: float) -> Split:
    """The split with its boxes for images that are delivered larger by this factor."""
    return split if split.boxes is None else replace(split, boxes=(split.boxes * factor).astype(np.float32))


def interleaved(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """An order of images in which classes take turns, so that its first N images are balanced for every N."""
    return np.lexsort((labels, turns(labels)))


def turns(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """For each image, the number of images of its class before it."""
    # Stable, so that images of a class keep their order; sorted, the first of each class is found by bisection.
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    before = np.empty_like(labels)
    before[by_class] = np.arange(len(labels)) - starts
    return before
