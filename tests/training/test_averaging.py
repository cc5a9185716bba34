"""The average of the student's weights is the formula's, and it is what a run measures and keeps."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from attention_transfer.runs import RunFolder
from attention_transfer.training.averaging import WeightAverage
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import load_data
from tests.closeness import assert_near
from tests.training.conftest import Make
from tests.training.test_fit import rows, silent


class Network(nn.Module):
    """Parameters, running statistics, a counter, and weights under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tied(self.norm(self.first(x)))


def test_the_average_is_the_formulas_and_counters_are_copied():
    torch.manual_seed(0)
    network = Network()
    average = WeightAverage(network, 0.9)
    expected = {name: value.double().clone() for name, value in network.state_dict().items()}
    for _ in range(20):
        network(torch.randn(8, 4))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update()
        for name, value in network.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value if value.is_floating_point() else value.double()
    for name, value in average.state().items():
        assert_near(value, expected[name], msg=name)
    assert average.state()["norm.num_batches_tracked"] == 20


def test_the_network_gets_its_own_weights_back_to_the_last_bit():
    network = Network()
    average = WeightAverage(network, 0.9)
    with torch.no_grad():
        network.first.weight.add_(1)
    own = {name: value.clone() for name, value in network.state_dict().items()}
    kept = {name: value.clone() for name, value in average.state().items()}

    def look() -> None:
        with average.in_place():
            assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            look()
        assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
        assert all(torch.equal(value, kept[name]) for name, value in average.state().items())


def test_a_run_keeps_the_average_of_the_weights_that_its_steps_left(make: Make, tmp_path: Path) -> None:
    """One step an epoch, so that snapshots of a run without an average show every step."""
    plain = make(teacher=None, methods=(), training={"epochs": 3, "batch_size": 48, "snapshot_epochs": (0, 1, 2, 3)})
    averaged = replace(plain, training=replace(plain.training, ema_decay=0.75))
    fit_experiment(plain, tmp_path / "plain", silent())
    fit_experiment(averaged, tmp_path / "averaged", silent())

    def weights(run: str, epoch: int) -> dict[str, torch.Tensor]:
        return safetensors.torch.load_file(RunFolder(tmp_path / run).snapshots[epoch] / "student.safetensors")

    expected = weights("plain", 0)
    for epoch in (1, 2, 3):
        step = weights("plain", epoch)
        expected = {
            name: 0.75 * value + 0.25 * step[name] if value.is_floating_point() else step[name]
            for name, value in expected.items()
        }
        found = weights("averaged", epoch)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert_near(value, expected[name], msg=name)
    saved = safetensors.torch.load_file(tmp_path / "averaged" / "student.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in weights("averaged", 3).items())
    assert json.loads((tmp_path / "averaged" / "student.json").read_text())["ema_decay"] == 0.75
    assert "ema_decay" not in json.loads((tmp_path / "plain" / "student.json").read_text())


def test_what_is_measured_is_what_is_kept_and_the_trained_student_stands_beside_it(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from attention_transfer.analysis.measure import measure

    plain = make(teacher=None, methods=(), training={"epochs": 4})
    averaged = replace(plain, training=replace(plain.training, ema_decay=0.9))
    fit_experiment(plain, tmp_path / "plain", silent())
    fit_experiment(averaged, tmp_path / "averaged")
    assert "unaveraged test" in capsys.readouterr().out
    theirs = {row["epoch"]: row["test"] for row in rows(tmp_path / "plain")}
    for row in rows(tmp_path / "averaged"):
        assert row["unaveraged"] == {"test": theirs[row["epoch"]]}
        assert row["test"]["loss"] != theirs[row["epoch"]]["loss"]
    summary, before = RunFolder(tmp_path / "averaged").summary, RunFolder(tmp_path / "plain").summary
    assert summary is not None
    assert before is not None
    assert summary["student_unaveraged"] == before["student"]
    score, _ = measure(str(tmp_path / "averaged"), plain.data, "test", plain.training)
    assert score.loss == pytest.approx(summary["student"]["test"]["loss"], rel=1e-5)
    assert len(load_data(plain.data, 0).test) == score.count


@pytest.mark.parametrize(("decay", "said"), [(0.9999, True), (0.5, False)])
def test_an_average_that_is_too_long_for_the_run_is_said_to_be(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], decay: float, said: bool
) -> None:
    fit_experiment(make(teacher=None, methods=(), training={"epochs": 3, "ema_decay": decay}), tmp_path / "run")
    assert ("still consists of the initial student to 100%" in capsys.readouterr().out) == said
