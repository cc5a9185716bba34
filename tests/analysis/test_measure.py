"""One model on one split."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from attention_transfer import Data, Input
from attention_transfer.analysis.measure import SplitName, measure
from attention_transfer.analysis.subject import Subject
from attention_transfer.data import DataSet
from attention_transfer.training.prepare import load_data
from tests.analysis.conftest import CPU, save_network


@pytest.mark.parametrize("split", ["test", "validation", "train", "unseen"])
def test_a_score_is_that_of_the_images_of_the_split(subject: Subject, images: Path, split: SplitName) -> None:
    data = Data(f"npz:{images}", validation_fraction=0.3, train_classes=2)
    found, notes = measure(subject.name, data, split, CPU, seed=4)
    dataset = load_data(data, seed=4)
    batches = list(replace(subject, dataset=dataset).batches(dataset.splits[split], 64))
    with torch.no_grad():
        logits = torch.cat([subject.module(image) for image, _ in batches])
    labels = torch.cat([label for _, label in batches])
    assert found.count == len(labels) == len(dataset.splits[split])
    assert found.top1 == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()))
    assert found.loss == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-4)
    assert notes == ()


def test_unseen_are_the_images_of_the_classes_that_are_left_out(subject: Subject, images: Path) -> None:
    found, _ = measure(subject.name, Data(f"npz:{images}", train_classes=2), "unseen", CPU)
    assert found.count == 8


@pytest.mark.parametrize(
    ("split", "fields", "words"),
    [
        ("validation", {}, "nothing was set aside for validation: give --validation-fraction"),
        ("unseen", {}, "no classes that training leaves out: give --train-classes, fewer"),
        ("unseen", {"train_classes": 3}, "no classes that training leaves out"),
    ],
)
def test_a_split_that_is_not_there_is_refused(
    subject: Subject, images: Path, split: SplitName, fields: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        measure(subject.name, Data(f"npz:{images}", **fields), split, CPU)


def test_models_that_do_not_fit_are_refused(dataset: DataSet, images: Path, tmp_path: Path) -> None:
    data = Data(f"npz:{images}")
    with pytest.raises(ValueError, match="names a network without weights"):
        measure("resnet8", data, "test", CPU)
    more = save_network(tmp_path / "more", classes=4, input=Input())
    with pytest.raises(ValueError, match=f"4 classes, {dataset.name} has 3"):
        measure(more, data, "test", CPU)


def test_a_normalisation_is_taken_only_where_the_weights_have_none(
    subject: Subject, images: Path, tmp_path: Path
) -> None:
    data, grey, one = Data(f"npz:{images}"), (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
    silent = save_network(tmp_path / "silent")
    told, notes = measure(silent, data, "test", CPU, mean=grey, std=one)
    assert told == measure(subject.name, data, "test", CPU)[0]
    assert notes == ()
    assumed, notes = measure(silent, data, "test", CPU)
    assert assumed.loss != told.loss
    assert f"the normalisation of {silent} is unknown" in notes[0]
    with pytest.raises(ValueError, match="leave out --mean and --std"):
        measure(subject.name, data, "test", CPU, mean=grey, std=one)
    with pytest.raises(ValueError, match="give --mean and --std together"):
        measure(silent, data, "test", CPU, mean=grey)
