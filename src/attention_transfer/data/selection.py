"""Subsets of the training images: by class, by share, by number.

>>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
>>> Selection(fraction=0.5).positions(labels, num_classes=3).tolist()
[0, 1, 4, 5, 8]
>>> Selection(classes=2, sample=4).positions(labels, num_classes=3).tolist()
[0, 1, 4, 5]
"""

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
from jaxtyping import Int64

from attention_transfer.data.dataset import turns
from attention_transfer.errors import InputError


class Labelled(Protocol):
    """Images with labels, of which some can be taken; decoded or not."""

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Class indices."""
        ...

    def subset(self, index: Int64[np.ndarray, " m"]) -> Self:
        """The images at these positions, in this order."""
        ...


Images = TypeVar("Images", bound=Labelled)


@dataclass(frozen=True)
class Selection:
    """Subset of the training images: four restrictions, applied in this order.

    Args:
        classes: only images of the first N classes, in the data set's order; None means of all.
        fraction: share of each remaining class, 0 < f ≤ 1, the first of its images; their number is rounded (halves
            up), but at least one remains; None means all.
        sample: about N of the remaining images, the same number of each class: the first of each class in turn, and at
            least one of each; None means all.
        limit: the first N of the remaining images, in the data set's order; None means all.

    Raises:
        ValueError: a number is out of its range.
    """

    classes: int | None = None
    fraction: float | None = None
    limit: int | None = None
    sample: int | None = None

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise InputError(
                f"train_fraction must be 0 < f ≤ 1, a share of every class's training images, not {self.fraction}"
            )
        if self.limit is not None and self.limit < 1:
            raise InputError(f"train_limit must be at least 1, not {self.limit}")
        if self.sample is not None and self.sample < 1:
            raise InputError(f"train_sample must be at least 1, not {self.sample}")

    def positions(self, labels: Int64[np.ndarray, " n"], num_classes: int) -> Int64[np.ndarray, " m"]:
        """Dataset indices of the selected images, ascending.

        Args:
            labels: class indices of all training images, in the data set's order.
            num_classes: of the data set, whether they have training images or not.

        Raises:
            ValueError: the data set has not so many classes, or nothing is left.
        """
        if self.classes is not None and not 1 <= self.classes <= num_classes:
            raise InputError(
                f"train_classes must be 1…{num_classes}, the number of classes of the data set, not {self.classes}: "
                "give one of these, or leave it out to train on all"
            )
        chosen = np.arange(len(labels))
        if self.classes is not None:
            chosen = chosen[labels < self.classes]
        if self.fraction is not None:
            left = labels[chosen]
            # floor(x + 0.5) rounds halves up; numpy's round would round them to even.
            wanted = np.maximum(np.floor(self.fraction * np.bincount(left, minlength=num_classes) + 0.5), 1)
            chosen = chosen[turns(left) < wanted[left]]
        if len(labels) and not len(chosen):
            raise InputError(f"no training image belongs to the first {self.classes} classes: raise train_classes")
        if self.sample is not None:
            left = labels[chosen]
            in_turn = np.lexsort((left, turns(left)))
            chosen = np.sort(chosen[in_turn[: max(self.sample, len(np.unique(left)))]])
        return chosen[: self.limit]

    def of(self, images: Images, num_classes: int) -> Images:
        """The selected ones of all training images; arguments and errors as for `positions`."""
        return images.subset(self.positions(images.labels, num_classes))


def evenly(images: Images, limit: int | None) -> Images:
    """At most `limit` images, spread evenly over all, which may be sorted by class.

    Args:
        images: images to choose from.
        limit: largest number of images; None means all.
    """
    num = len(images.labels)
    if limit is None or num <= limit:
        return images
    # The first N would be of the first classes only, where images are sorted.
    return images.subset(np.linspace(0, num - 1, limit).round().astype(np.int64))
