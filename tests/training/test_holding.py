"""What has no gradient is worn off by weight decay, or left alone if asked."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.closeness import assert_near
from tests.training.conftest import Make
from tests.training.test_fit import silent
from torch import nn

from attention_transfer import MODELS
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.holding import held_without_gradient


class HalfUsed(nn.Module):
    """Computes six outputs in one layer, as transformers do queries, keys and values, and uses the last three."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fused = nn.Linear(16 * 16 * 3, 6)
        self.head = nn.Linear(3, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.fused(x.flatten(1))[:, 3:])


@pytest.mark.parametrize("hold", [None, True])
def test_a_run_decays_rows_that_nothing_trains_unless_they_are_to_be_held(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: bool | None
) -> None:
    monkeypatch.setitem(MODELS, "half-used", HalfUsed)
    settings = {"optimizer": "adamw", "learning_rate": 1e-2, "schedule": "constant", "weight_decay": 0.5}
    experiment = make(
        student="half-used",
        teacher=None,
        methods=(),
        optimisation=settings | {"hold_without_gradient": hold},
        training={"epochs": 2, "snapshot_epochs": (0,)},
    )
    fit_experiment(experiment, tmp_path / "run", silent())
    before, after = (
        safetensors.torch.load_file(place / "student.safetensors")
        for place in (RunFolder(tmp_path / "run").snapshots[0], tmp_path / "run")
    )
    steps = 2 * 3
    for name in ("fused.weight", "fused.bias"):
        expected = before[name][:3] * (1.0 if hold else (1 - 1e-2 * 0.5) ** steps)
        assert_near(after[name][:3], expected, steps=0 if hold else 128, msg=name)
        assert not torch.equal(after[name][3:], before[name][3:])


def test_what_has_a_gradient_moves_as_it_would_anyway() -> None:
    torch.manual_seed(0)
    plain, held = nn.Linear(4, 3), nn.Linear(4, 3)
    held.load_state_dict(plain.state_dict())
    x = torch.randn(5, 4)
    for network in (plain, held):
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
        network(x)[:, 1:].square().sum().backward()
        if network is held:
            with held_without_gradient(network.parameters()):
                optimizer.step()
        else:
            optimizer.step()
    for name in ("weight", "bias"):
        ours, theirs = held.get_parameter(name), plain.get_parameter(name)
        assert torch.equal(ours[1:], theirs[1:])
        assert not torch.equal(ours[0], theirs[0])


def test_parameters_without_a_gradient_or_without_rows_are_passed_over() -> None:
    scale, unused = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([scale, unused], lr=0.5)
    scale.square().backward()
    with held_without_gradient([scale, unused]):
        optimizer.step()
    assert scale.item() == 0.0
    assert torch.equal(unused, torch.ones(3))
