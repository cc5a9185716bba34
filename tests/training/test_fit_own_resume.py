"""`fit` that goes on where it was stopped, at places that are easily forgotten: before the first checkpoint, beyond the
end of a shorter loader, with networks that keep more than tensors, over what is no checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.test_fit_own_loader import SILENT, StoppedError, Stopper, batches, make, network, same, sgd
from torch import Tensor, nn

from attention_transfer import Distiller, InputError, fit


class Counting(nn.Module):
    """A network that keeps a dictionary in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(4)
        self.seen = {"batches": 0}

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen["batches"] += 1
        return self.network(images)

    def get_extra_state(self) -> Any:
        return dict(self.seen)

    def set_extra_state(self, state: Any) -> None:
        self.seen = dict(state)


class Unsized:
    """Batches that say no length."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Any:
        return iter(batches(self.count))


def counting() -> Distiller:
    torch.manual_seed(0)
    return Distiller(Counting(), example=torch.empty(2, 3, 8, 8))


def test_a_call_stopped_before_its_first_epoch_ends_begins_anew_with_the_same_objects(tmp_path: Path) -> None:
    whole, stopped = make(), make()
    fit(whole, batches(), epochs=1, optimizer=sgd(whole), folder=tmp_path / "whole", reporter=SILENT)
    optimizer = sgd(stopped)
    with pytest.raises(StoppedError):
        fit(stopped, batches(), epochs=1, optimizer=optimizer, folder=tmp_path / "run", reporter=Stopper(3))
    assert optimizer.state
    fit(stopped, batches(), epochs=1, optimizer=optimizer, folder=tmp_path / "run", reporter=SILENT)
    assert same(stopped.student, whole.student)
    assert (tmp_path / "run/student.safetensors").read_bytes() == (tmp_path / "whole/student.safetensors").read_bytes()


def test_a_loader_that_ends_before_the_interruption_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2, "folder": tmp_path / "run", "checkpoint_every_steps": 2}
    with pytest.raises(StoppedError):
        fit(make(), Unsized(5), **settings, reporter=Stopper(4))
    with pytest.raises(InputError, match="gives 2 batches in epoch 1, of which 4 were trained on before"):
        fit(make(), Unsized(2), **settings, reporter=SILENT)


def test_what_a_network_keeps_beside_tensors_comes_back(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2, "ema_decay": 0.5, "checkpoint_every_steps": 2}
    whole, resumed = counting(), counting()
    fit(whole, batches(), **settings, folder=tmp_path / "whole", reporter=SILENT)
    with pytest.raises(StoppedError):
        fit(counting(), batches(), **settings, folder=tmp_path / "run", reporter=Stopper(8))
    fit(resumed, batches(), **settings, folder=tmp_path / "run", reporter=SILENT)
    assert resumed.student.seen == whole.student.seen
    assert (tmp_path / "run/student.safetensors").read_bytes() == (tmp_path / "whole/student.safetensors").read_bytes()


def test_a_file_where_a_checkpoint_should_be_is_passed_over_and_replaced(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2, "checkpoint_every_steps": 2, "folder": tmp_path / "run"}
    with pytest.raises(StoppedError):
        fit(make(), batches(), **settings, reporter=Stopper(8))
    last = max((tmp_path / "run/checkpoints").iterdir())
    last.rename(tmp_path / "elsewhere")
    last.write_text("no checkpoint")
    resumed, whole = make(), make()
    fit(resumed, batches(), **settings, reporter=SILENT)
    fit(whole, batches(), epochs=2, reporter=SILENT)
    assert same(resumed.student, whole.student)
