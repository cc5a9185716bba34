"""Methods whose parts remember what they saw, trained from a data set."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from attention_transfer import Contrastive, DecoupledSoftTargets, Overhaul, Review
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import prepare
from tests.training.conftest import Make
from tests.training.test_fit import KilledError, Killer, rows, silent

METHODS = {
    "bank": (Contrastive(num_negatives=12),),
    "queue": (Contrastive(memory="queue", num_negatives=12),),
    "margins and fusion": (Overhaul(margins="data"), Review()),
}


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_run_ends_with_the_same_student_and_memory_bit_for_bit(
    make: Make, tmp_path: Path, name: str
) -> None:
    experiment = make(methods=METHODS[name], training={"checkpoint_every_steps": 2})
    fit_experiment(experiment, tmp_path / "whole", silent())
    with pytest.raises(KilledError):
        fit_experiment(experiment, tmp_path / "broken", Killer(5))
    fit_experiment(experiment, tmp_path / "broken", silent())
    for file in ("student.safetensors", "parts.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes()
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")


def test_a_bank_knows_the_training_images_and_all_were_remembered(make: Make, tmp_path: Path) -> None:
    experiment = make(methods=(Contrastive(),))
    prepared = prepare(experiment)
    bank = prepared.distiller.parts["crd"].memory
    assert torch.equal(bank.labels, torch.tensor(prepared.dataset.train.labels))
    fit_experiment(experiment, tmp_path / "run", silent())
    kept = safetensors.torch.load_file(tmp_path / "run" / "parts.safetensors")
    assert (kept["crd.memory.student"] != bank.student).any(1).all()
    assert (kept["crd.normalisers"] > 0).all()


def test_mixed_images_are_refused_with_the_way_out(make: Make) -> None:
    for method, words in (
        (Contrastive(), "crd goes by the dataset index of each image"),
        (Contrastive(memory="queue"), "crd wants one class for each image"),
    ):
        experiment = make(methods=(method,))
        mixed = replace(experiment, data=replace(experiment.data, mixup=0.8))
        with pytest.raises(ValueError, match=rf"{words}.* leave out --mixup"):
            prepare(mixed)


def test_smoothed_labels_are_refused_where_a_class_number_is_wanted(make: Make) -> None:
    for method in (Contrastive(memory="queue"), DecoupledSoftTargets()):
        experiment = make(methods=(method,))
        smoothed = replace(experiment, data=replace(experiment.data, label_smoothing=0.1))
        with pytest.raises(ValueError, match=f"{method.key} wants one class .* leave out --label-smoothing"):
            prepare(smoothed)
    # A bank knows the classes by itself.
    experiment = make(methods=(Contrastive(),))
    prepare(replace(experiment, data=replace(experiment.data, label_smoothing=0.1)))
