"""The images of a command that draws what models see in them, and what it says in the end."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from attention_transfer.analysis.class_maps import chosen_images, pictures
from attention_transfer.analysis.measure import SplitName, chosen_split
from attention_transfer.analysis.subject import Subject
from attention_transfer.commands.data_of_runs import for_test_images
from attention_transfer.data import DataSet, Split
from attention_transfer.errors import printable
from attention_transfer.experiment import Data
from attention_transfer.training.prepare import load_data


@dataclass(frozen=True)
class DrawnImages:
    """A few images of one split.

    Args:
        dataset: that they belong to.
        split: these images alone.
        index: their positions in the whole split, from 0.
        name: of the whole split.
        num_workers: processes that decode photographs.
    """

    dataset: DataSet
    split: Split
    index: Int64[np.ndarray, " n"]
    name: SplitName
    num_workers: int

    def pictures(self) -> UInt8[np.ndarray, "n h w 3"]:
        """As networks see them, before any normalisation."""
        return pictures(self.dataset, self.split, self.num_workers)

    def say(self, figure: Path, subjects: Iterable[Subject]) -> None:
        """Print what was assumed, where the picture is and which images it shows.

        Args:
            figure: where the picture is.
            subjects: whose maps are drawn.
        """
        for note in dict.fromkeys(note for subject in subjects for note in subject.notes):
            print(printable(f"note: {note}"))
        print(printable(f"picture: {figure}   (images {' '.join(map(str, self.index))} of {self.name})"))


def drawn_images(
    data: Data, split: SplitName, count: int | None, index: Sequence[int] | None, seed: int, download: bool = True
) -> DrawnImages:
    """The images that a user asks for.

    Args:
        data: as configured.
        split: of it.
        count: so many, spread evenly over the split; 6 if neither this nor `index` is given.
        index: these, by position from 0.
        seed: of the choice of validation images.
        download: whether data that is missing may be fetched.

    Raises:
        ValueError: the data cannot be had, there is no such split or image, or both `count` and `index` are given.
    """
    dataset = load_data(for_test_images(data) if split == "test" else data, seed, download=download)
    whole = chosen_split(dataset, split)
    chosen = chosen_images(whole, count, index)
    return DrawnImages(dataset, whole.subset(chosen), chosen, split, data.num_workers)
