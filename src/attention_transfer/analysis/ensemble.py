"""Several networks as one: the mean of their class probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from attention_transfer.analysis.measure import SplitName, chosen_split
from attention_transfer.analysis.subject import Colours, Subject, open_subjects
from attention_transfer.capture import as_logits
from attention_transfer.data import DataSet
from attention_transfer.errors import InputError
from attention_transfer.experiment import Data, Training
from attention_transfer.models.class_names import pair_classes
from attention_transfer.runs.downloads import Downloads
from attention_transfer.training.evaluate import Score
from attention_transfer.training.metrics import scores
from attention_transfer.training.prepare import load_data


@dataclass(frozen=True)
class Ensemble:
    """How good networks are together and alone.

    Args:
        models: as their user wrote them.
        together: of the mean of their class probabilities.
        members: of each alone.
        agreement: share of images on which two members name the same class, in percent, for each pair of members in
            the order of `itertools.combinations`.
        notes: what was assumed where nobody said.
    """

    models: tuple[str, ...]
    together: Score
    members: tuple[Score, ...]
    agreement: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def mean_agreement(self) -> float:
        """Over all pairs, in percent."""
        return sum(self.agreement) / len(self.agreement)

    def row(self) -> dict[str, Any]:
        """As a finding has it."""
        pairs = combinations(self.models, 2)
        return {
            "together": self.together.row(),
            "members": [{"model": name} | score.row() for name, score in zip(self.models, self.members, strict=True)],
            "agreement": [
                {"models": list(pair), "percent": share} for pair, share in zip(pairs, self.agreement, strict=True)
            ],
            "notes": list(self.notes),
        }


@torch.no_grad()
def measure_together(
    models: Sequence[str],
    data: Data,
    split: SplitName,
    settings: Training,
    seed: int = 0,
    mean: Colours | None = None,
    std: Colours | None = None,
    downloads: Downloads | None = None,
) -> Ensemble:
    """Open models and measure them on a split, each alone and all together.

    The ensemble of Li et al. (NeurIPS 2024, arXiv:2411.09702): the mean of the softmax outputs.

    Args:
        models: at least two, as on the command line.
        data: which images.
        split: of them.
        settings: batch size, device and precision count.
        seed: chooses the validation images.
        mean: per channel, of the images of those models whose weights do not say; None takes the data's.
        std: per channel, likewise.
        downloads: what may be fetched.

    Raises:
        ValueError: if there are fewer than two models or one comes twice, a model has no weights, or other classes than
            the data, or the split does not exist.
    """
    downloads = downloads or Downloads()
    if len(models) < 2:
        raise InputError("an ensemble needs at least two models")
    twice = next((name for place, name in enumerate(models) if name in models[:place]), None)
    if twice is not None:
        raise InputError(f"{twice} is given twice: an ensemble is of different models")
    dataset = load_data(data, seed, download=downloads.data)
    chosen = chosen_split(dataset, split)
    subjects = open_subjects(models, dataset, settings, mean, std, allow_download=downloads.recorded)
    for subject in subjects:
        _require_classes(subject, dataset)
    totals = _Totals(len(subjects))
    for batch in subjects[0].loader(chosen, settings.batch_size, data.num_workers).epoch(0):
        assert batch.label is not None
        totals.add([_logits(subject, batch.image) for subject in subjects], batch.label)
    together, *members = (score.of(dataset, split) for score in totals.scores())
    notes = tuple(note for subject in subjects for note in subject.notes)
    return Ensemble(tuple(models), together, tuple(members), totals.agreement(), notes)


class _Totals:
    """Sums over batches, of the ensemble and of each member."""

    def __init__(self, members: int) -> None:
        self._sums = [[0.0, 0.0, 0.0] for _ in range(1 + members)]
        self._agreed = [0 for _ in combinations(range(members), 2)]
        self._count = 0

    def add(self, logits: Sequence[Tensor], labels: Tensor) -> None:
        """Take in a batch, with the logits of every member."""
        log_probabilities = torch.stack([each.double().log_softmax(1) for each in logits])
        # The logarithm of the mean; a mean of probabilities itself would lose what is below the smallest number.
        mean = log_probabilities.logsumexp(0) - math.log(len(logits))
        for sums, each in zip(self._sums, (mean, *logits), strict=True):
            for place, value in enumerate(scores(each, labels)):
                sums[place] += float(value)
        named = log_probabilities.argmax(2)
        for place, (first, second) in enumerate(combinations(named, 2)):
            self._agreed[place] += int((first == second).sum())
        self._count += len(labels)

    def scores(self) -> list[Score]:
        """Of the ensemble, then of each member."""
        count = self._count
        return [Score(loss / count, 100 * top1 / count, 100 * top5 / count, count) for loss, top1, top5 in self._sums]

    def agreement(self) -> tuple[float, ...]:
        """Of each pair, in percent."""
        return tuple(100 * agreed / self._count for agreed in self._agreed)


def _logits(subject: Subject, images: Tensor) -> Tensor:
    with subject.place.autocast():
        return as_logits(subject.module(subject.prepare(images)), "network").float()


def _require_classes(subject: Subject, dataset: DataSet) -> None:
    """Refuse a network of other classes: by their number, and by their names where both are known."""
    if subject.opened.num_classes != dataset.num_classes:
        raise InputError(
            f"{subject.name} has {subject.opened.num_classes} classes, {dataset.name} has {dataset.num_classes}: the "
            "members of an ensemble have those of the data"
        )
    # Also where the data's classes are only numbered: whoever has names does not say that they are these.
    difference = pair_classes(subject.opened.classes, dataset.classes).difference
    if difference:
        raise InputError(f"{subject.name}: {difference}. The members of an ensemble have the classes of the data")
