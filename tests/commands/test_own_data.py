"""Commands that measure models take the data of a run among them."""

from dataclasses import replace
from pathlib import Path

import pytest

from attention_transfer import Data
from attention_transfer.commands.own_data import own_data
from attention_transfer.experiment import to_json
from attention_transfer.runs import RunFolder
from tests.training.conftest import Make, images, make

__all__ = ["images", "make"]


def write_run(path: Path, make: Make, data: Data) -> str:
    """A run that has not begun."""
    RunFolder.create_or_resume(path, to_json(replace(make(), data=data))).close()
    return str(path)


def test_a_run_is_measured_on_what_it_was_trained_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data("cifar100", image_size=40, train_limit=100)
    run = write_run(tmp_path / "run", make, data)
    assert own_data(["resnet8@x.pt", run, "--top", "3"]) == data
    monkeypatch.setenv("RUNS", str(tmp_path))
    assert own_data(["$RUNS/run"]) == data
    assert own_data(["resnet8@x.pt"]) == Data()


def test_runs_of_different_data_need_a_word(make: Make, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, make, Data(name)) for name in ("cifar10", "cifar100")]
    with pytest.raises(ValueError, match="trained on cifar10, cifar100: say with --data"):
        own_data(runs)
    assert own_data([*runs, "--data", "cifar10"]) == Data()
    assert own_data([*runs, "--data=cifar10"]) == Data()
