"""What methods learned beside the student is kept with it."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from attention_transfer import METHODS, Review
from attention_transfer.runs import PARTS_WEIGHTS, RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import prepare
from tests.training.conftest import Make
from tests.training.test_fit import KilledError, Killer, TwoPhases, silent


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
