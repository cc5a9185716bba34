"""Ensembles of networks: accuracy of the mean of their class probabilities, and their agreement.

>>> measure_together(["runs/kd-seed0"], Data(), "test", Training())
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: an ensemble needs at least two models
"""

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
from attention_transfer.experiment.data import Downloads
from attention_transfer.models.class_names import pair_classes
from attention_transfer.training.evaluate import Score
from attention_transfer.training.metrics import scores
from attention_transfer.training.prepare import load_data


@dataclass(frozen=True)
class Ensemble:
    """Accuracy of an ensemble and of its members.

    Args:
        models: names of the models, as their user wrote them.
        together: score of the ensemble, the mean of the class probabilities.
        members: score of each member.
        agreement: share of images on which two members predict the same class, in percent, for each pair of members in
            the order of `itertools.combinations`.
        notes: what was assumed because it could not be determined.
    """

    models: tuple[str, ...]
    together: Score
    members: tuple[Score, ...]
    agreement: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def mean_agreement(self) -> float:
        """Mean agreement over all pairs, in percent."""
        return sum(self.agreement) / len(self.agreement)

    def row(self) -> dict[str, Any]:
        """The fields, as a finding has them."""
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
    """Open models and measure them on a split, each by itself and as an ensemble.

    The ensemble of Li et al. (NeurIPS 2024, arXiv:2411.09702): the mean of the softmax outputs.

    Args:
        models: at least two, as on the command line.
        data: data set.
        split: name of its split.
        settings: settings of which batch size, device and precision are used.
        seed: seed of the choice of validation images.
        mean: mean per channel of the images of those models whose weights do not have it; None takes the data set's.
        std: standard deviation per channel of the images of those models; None takes the data set's.
        downloads: what may be downloaded.

    Raises:
        ValueError: if there are fewer than two models or one comes twice, a model has no weights, or other classes than
            the data, or the split does not exist.
    """
    downloads = downloads or Downloads()
    if len(models) < 2:
        raise InputError("an ensemble needs at least two models")
    twice = next((name for number, name in enumerate(models) if name in models[:number]), None)
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
        # The logarithm of the mean, for probabilities below the smallest float would vanish in the mean itself.
        mean = log_probabilities.logsumexp(0) - math.log(len(logits))
        for sums, each in zip(self._sums, (mean, *logits), strict=True):
            for number, value in enumerate(scores(each, labels)):
                sums[number] += float(value)
        named = log_probabilities.argmax(2)
        for pair, (first, second) in enumerate(combinations(named, 2)):
            self._agreed[pair] += int((first == second).sum())
        self._count += len(labels)

    def scores(self) -> list[Score]:
        """Scores of the ensemble, then of each member."""
        count = self._count
        return [Score(loss / count, 100 * top1 / count, 100 * top5 / count, count) for loss, top1, top5 in self._sums]

    def agreement(self) -> tuple[float, ...]:
        """Agreement of each pair, in percent."""
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
    # Also where the data's classes are only numbered: names on one side alone do not show that they are the same.
    difference = pair_classes(subject.opened.classes, dataset.classes).difference
    if difference:
        raise InputError(f"{subject.name}: {difference}. The members of an ensemble have the classes of the data")
