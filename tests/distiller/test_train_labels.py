"""Methods that need the labels of the training set, or class numbers in a batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attention_transfer import Distiller, Method, Term
from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods import Needs, Observed, Reads

EXAMPLE = torch.empty(2, 3, 16, 16)
Pair = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Counting(Method):
    """Remembers how many training images there are."""

    key: ClassVar[str] = "counting"

    def reads(self, teacher: object, student: object) -> Reads:
        return Reads(batch=Needs(index=True))

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        return nn.Linear(5, 1)

    def given_labels(self, parts: nn.Module | None, labels: Tensor | None) -> None:
        if labels is None:
            raise InputError("counting needs the labels of all training images")
        parts.register_buffer("seen", torch.zeros(len(labels)))

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        # Fails for places that the training set has not.
        parts.seen[batch.index] += 1
        return {"counting": Term(parts(student.logits).mean())}


@dataclass(frozen=True)
class Numbers(Counting):
    """Wants class numbers."""

    def reads(self, teacher: object, student: object) -> Reads:
        return Reads(batch=Needs(class_indices=True))

    def given_labels(self, parts: nn.Module | None, labels: Tensor | None) -> None:
        pass

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        return {"counting": Term(parts(student.logits).mean())}


def test_labels_reach_the_parts_and_the_proof_counts_in_their_places(small_pair: Pair) -> None:
    labels = torch.arange(3)
    distiller = Distiller(small_pair[0], None, [Counting()], example=torch.empty(8, 3, 16, 16), train_labels=labels)
    assert torch.equal(distiller.parts["counting"].seen, torch.zeros(3))
    distiller(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]), torch.tensor([2, 1]))
    assert distiller.parts["counting"].seen.tolist() == [0, 1, 1]


def test_labels_that_are_missing_or_none_are_refused(small_pair: Pair) -> None:
    with pytest.raises(ValueError, match="counting needs the labels of all training images"):
        Distiller(small_pair[0], None, [Counting()], example=EXAMPLE)
    kinds = (torch.zeros(4, 5), torch.zeros(4), torch.zeros(0).long(), torch.zeros(4).bool(), torch.tensor(3))
    for wrong in (*kinds, torch.tensor([-1]), torch.tensor([0, -100]), ["cat", "dog"], [[0], [1, 2]], {0: 1}):
        with pytest.raises(ValueError, match="train_labels must be a list of class indices"):
            Distiller(small_pair[0], None, [Counting()], example=EXAMPLE, train_labels=wrong)


def test_training_labels_of_classes_that_the_student_has_not_are_refused(small_pair: Pair) -> None:
    for labels, words in ((torch.arange(8), "up to 7, and the student has the 5 classes"), ([1, 5], "count from 0")):
        with pytest.raises(ValueError, match=f"train_labels go up to .*{words}|{words}"):
            Distiller(small_pair[0], None, [Counting()], example=EXAMPLE, train_labels=labels)
    # Where no labels are learned, classes are the method's own.
    Distiller(small_pair[0], None, [Counting()], example=EXAMPLE, train_labels=torch.arange(8), task_weight=0)


def test_labels_of_any_whole_number_type_are_taken(small_pair: Pair) -> None:
    for labels in ([0, 1, 2], np.array([0, 1, 2]), torch.tensor([0, 1, 2], dtype=torch.int32)):
        distiller = Distiller(small_pair[0], None, [Counting()], example=EXAMPLE, train_labels=labels)
        assert len(distiller.parts["counting"].seen) == 3


def test_mixed_labels_are_refused_where_class_indices_are_wanted(small_pair: Pair) -> None:
    distiller = Distiller(small_pair[0], None, [Numbers()], example=EXAMPLE, task_weight=0)
    images = torch.randn(2, 3, 16, 16)
    distiller(images, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels are needed"):
        distiller(images)
    with pytest.raises(ValueError, match="counting: labels must be class indices, not probabilities"):
        distiller(images, torch.full((2, 5), 0.2))
