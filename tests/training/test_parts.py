"""What methods learned beside the student is kept with it."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.training.conftest import Make
from tests.training.test_fit import KilledError, Killer, TwoPhases, rows, silent
from torch import nn

from attention_transfer import Contrastive, DecoupledSoftTargets, Overhaul, Review
from attention_transfer.methods import METHODS
from attention_transfer.models import open_model
from attention_transfer.runs import PARTS_WEIGHTS, RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import prepare


def test_what_methods_learned_is_kept_at_the_end(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, TwoPhases.key, TwoPhases)
    experiment = make(methods=(TwoPhases(),), training={"epochs": 1})
    with pytest.raises(KilledError):
        fit_experiment(experiment, tmp_path / "run", Killer(4))
    assert RunFolder(tmp_path / "run").parts is None
    fit_experiment(experiment, tmp_path / "run", silent())
    parts = RunFolder(tmp_path / "run").parts
    assert parts == tmp_path / "run" / PARTS_WEIGHTS
    kept = safetensors.torch.load_file(parts)
    fresh = prepare(experiment).distiller.parts
    assert isinstance(fresh, nn.ModuleDict)
    assert set(kept) == set(fresh.state_dict()) == {"two.weight", "two.bias"}
    assert not torch.equal(kept["two.weight"], fresh.state_dict()["two.weight"])
    fresh.load_state_dict(kept)


def test_a_run_killed_after_the_first_phase_goes_on_with_the_second(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, TwoPhases.key, TwoPhases)
    experiment = make(methods=(TwoPhases(),), training={"epochs": 1})
    fit_experiment(experiment, tmp_path / "whole", silent())
    with pytest.raises(KilledError):
        fit_experiment(experiment, tmp_path / "broken", Killer(6))
    fit_experiment(experiment, tmp_path / "broken", silent())
    for name in ("student.safetensors", PARTS_WEIGHTS):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


def test_a_run_whose_methods_learn_nothing_keeps_no_parts(make: Make, tmp_path: Path) -> None:
    fit_experiment(make(training={"epochs": 1}), tmp_path / "run", silent())
    assert RunFolder(tmp_path / "run").finished
    assert RunFolder(tmp_path / "run").parts is None


def test_convolutions_in_channels_last_are_kept_too(make: Make, tmp_path: Path) -> None:
    fit_experiment(make(methods=(Review(),), training={"epochs": 1, "channels_last": True}), tmp_path / "run", silent())
    parts = RunFolder(tmp_path / "run").parts
    assert parts is not None
    assert any(value.ndim == 4 and value.shape[-1] == 3 for value in safetensors.torch.load_file(parts).values())


REMEMBERING = {
    "bank": (Contrastive(num_negatives=12),),
    "queue": (Contrastive(memory="queue", num_negatives=12),),
    "margins and fusion": (Overhaul(margins="data"), Review()),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_an_interrupted_run_ends_with_the_same_student_and_memory_bit_for_bit(
    make: Make, tmp_path: Path, name: str
) -> None:
    experiment = make(methods=REMEMBERING[name], training={"checkpoint_every_steps": 2})
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


def weights(folder: Path) -> bytes:
    return (folder / "student.safetensors").read_bytes()


def test_snapshots_are_the_students_of_their_epochs(make: Make, tmp_path: Path) -> None:
    experiment = make(training={"epochs": 3, "snapshot_epochs": (0, 2, 3)})
    fit_experiment(experiment, tmp_path / "run", silent())
    run = RunFolder(tmp_path / "run")
    assert list(run.snapshots) == [0, 2, 3]
    opened = {epoch: open_model(str(path)) for epoch, path in run.snapshots.items()}
    assert all(model.trained and model.num_classes == 3 and model.name == "resnet8" for model in opened.values())
    untrained = prepare(experiment).distiller.student.state_dict()
    assert all(torch.equal(value, untrained[name]) for name, value in opened[0].module.state_dict().items())
    assert weights(run.snapshots[3]) == weights(run.path)
    assert len({weights(path) for path in run.snapshots.values()}) == 3
    assert sorted(path.name for path in run.snapshots[2].iterdir()) == sorted(
        path.name for path in run.path.iterdir() if path.name.startswith("student.")
    )


def test_a_run_without_snapshots_keeps_none_and_learns_the_same(make: Make, tmp_path: Path) -> None:
    fit_experiment(make(), tmp_path / "plain", silent())
    fit_experiment(make(training={"snapshot_epochs": (0, 1)}), tmp_path / "kept", silent())
    assert not (tmp_path / "plain" / "snapshots").exists()
    assert weights(tmp_path / "plain") == weights(tmp_path / "kept")


@pytest.mark.parametrize(("every", "killed_after"), [(None, 1), (None, 4), (2, 5), (None, 6)])
def test_an_interrupted_run_ends_with_the_same_snapshots(
    make: Make, tmp_path: Path, every: int | None, killed_after: int
) -> None:
    settings = {"epochs": 3, "checkpoint_every_steps": every, "snapshot_epochs": (0, 1, 2, 3)}
    experiment = make(training=settings, teacher=None, methods=())
    fit_experiment(experiment, tmp_path / "whole", silent())
    with pytest.raises(KilledError):
        fit_experiment(experiment, tmp_path / "broken", Killer(killed_after))
    # As a run looks that was killed between a snapshot and its checkpoint.
    broken = RunFolder(tmp_path / "broken")
    done = max(broken.snapshots)
    assert done == killed_after // 3
    stale = broken.path / "snapshots" / f"epoch-{done + 1}"
    stale.mkdir()
    (stale / "student.safetensors").write_text("of another course")
    fit_experiment(experiment, broken.path, silent())
    whole = RunFolder(tmp_path / "whole").snapshots
    assert list(whole) == list(broken.snapshots) == [0, 1, 2, 3]
    assert all(weights(whole[epoch]) == weights(broken.snapshots[epoch]) for epoch in whole)


def test_epochs_of_snapshots_count_over_all_phases(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, TwoPhases.key, TwoPhases)
    experiment = make(methods=(TwoPhases(),), training={"epochs": 1, "snapshot_epochs": (2, 3)})
    assert experiment.epochs == 3
    fit_experiment(experiment, tmp_path / "run", silent())
    assert list(RunFolder(tmp_path / "run").snapshots) == [2, 3]
    late = replace(experiment.training, snapshot_epochs=(4,))
    with pytest.raises(ValueError, match=r"snapshot_epochs must be within the 3 epochs of the run .*, not 4"):
        replace(experiment, training=late)
