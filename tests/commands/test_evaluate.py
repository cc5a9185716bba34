"""`evaluate`, as a user types it."""

import json
from pathlib import Path

import pytest
from tests.training.conftest import Make, images, make

from attention_transfer import Data
from attention_transfer.commands.evaluate import command
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment

__all__ = ["images", "make"]


def test_classes_that_a_run_never_saw_are_measured_as_it_measured_them(
    images: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Data(f"npz:{images}", train_classes=2)
    fit_experiment(make(methods=(), teacher=None, data=data, training={"epochs": 1}), tmp_path / "run")
    capsys.readouterr()
    command([str(tmp_path / "run"), "--split", "unseen", "--device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    kept = RunFolder(tmp_path / "run").read_metrics()[-1]["unseen"]
    assert (found["split"], found["count"], found["top1"]) == ("unseen", 8, kept["top1"])
    assert found["loss"] == pytest.approx(kept["loss"], rel=1e-4)
    with pytest.raises(ValueError, match="give --train-classes"):
        command([str(tmp_path / "run"), "--split", "unseen", "--train-classes", "None", "--device", "cpu"])
