"""Check of a teacher's accuracy on a few images, before training."""

from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_transfer.capture import undisturbed
from attention_transfer.data import DataSet
from attention_transfer.data.selection import evenly
from attention_transfer.distiller import Distiller
from attention_transfer.training.evaluate import Score, evaluate
from attention_transfer.training.refusals import other_classes

if TYPE_CHECKING:
    from attention_transfer.training.prepare import Prepared

IMAGES = 256
_BATCH = 64
# How rarely guessing may do as well by luck.
_LUCK = 0.01


@dataclass(frozen=True)
class TeacherCheck:
    """What a teacher knows of the images that a student is going to learn from.

    Args:
        score: on these images, without augmentation.
        split: that they are from.
        chance: share of the images of which guessing is right, in percent: that of the most frequent class.
    """

    score: Score
    split: str
    chance: float

    @property
    def near_chance(self) -> bool:
        """Whether guessing would be right as often, within the error of so small a sample."""
        count, share = self.score.count, self.chance / 100
        right = round(self.score.top1 / 100 * count)
        as_often = (comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(right, count + 1))
        return sum(as_often) > _LUCK

    def row(self) -> dict[str, Any]:
        """As a run's environment has it."""
        return self.score.row() | {"split": self.split, "chance": self.chance, "near_chance": self.near_chance}

    def lines(self) -> tuple[str, ...]:
        """For the user to read."""
        score = self.score
        found = f"teacher: {score.top1:.0f} % of {score.count} images ({self.split}) are classified right"
        if not self.near_chance:
            return (found,)
        return (
            f"{found}; guessing is right on {self.chance:.0f} %",
            "WARNING: the teacher does no better than guessing on these data. Its classes may be in another order, its "
            "images normalised otherwise (--teacher-mean, --teacher-std) or its weights untrained: a student learns "
            "nothing of use from its logits",
        )


def check_teacher(prepared: "Prepared") -> TeacherCheck | None:
    """Show a teacher a few images, evenly over the data; it, and every random generator, stay as they were.

    Args:
        prepared: a training.

    Returns:
        None where there is no teacher, or where it has no logits for the data's classes or no weights.
    """
    teacher, distiller, dataset = prepared.teacher, prepared.distiller, prepared.dataset
    if teacher is None or not isinstance(distiller, Distiller) or not teacher.trained:
        return None
    if teacher.num_classes != dataset.num_classes or not dataset.labelled or other_classes(teacher, dataset):
        return None
    name = "train" if dataset.validation is None else "validation"
    with undisturbed(teacher.module):
        loader = replace(prepared, num_workers=0).evaluation(evenly(dataset.splits[name], IMAGES), _BATCH)
        score = evaluate(teacher.module, loader, prepared.place, distiller.teacher_images)
    return TeacherCheck(score, name, _chance(dataset))


def _chance(dataset: DataSet) -> float:
    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    return 100 * max(float(counts.max()) / len(dataset.train), 1 / dataset.num_classes)
