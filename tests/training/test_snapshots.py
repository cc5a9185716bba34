"""Students kept along the way: whole, openable, and the same after an interruption."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attention_transfer.methods import METHODS
from attention_transfer.models import open_model
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import prepare
from tests.training.conftest import Make
from tests.training.test_fit import KilledError, Killer, TwoPhases, silent


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
