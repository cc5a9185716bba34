"""What a method may read of a network beside taps, logits and attention is there in every step, or refused."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from attention_transfer import CaptureError, Distiller, Method, Reads, Request, Tap, Term
from attention_transfer.batch import Batch
from attention_transfer.capture import Reading
from attention_transfer.methods import BatchNorms, ClassMapHead, InputGradient, Observed, Provider, WeightFingerprint
from attention_transfer.models import Description
from attention_transfer.models.fingerprint import fingerprint

IMAGES, LABELS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3


def network() -> nn.Sequential:
    block = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5))
    return nn.Sequential(block, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))


@dataclass(frozen=True)
class Provided(Method):
    """Reads what it is made with, and keeps what it was given."""

    key: ClassVar[str] = "provided"

    request: Request = field(default_factory=Request)
    of: str = "student"
    seen: Callable[[Any], None] = print

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        return Reads(teacher=self.request) if self.of == "teacher" else Reads(student=self.request)

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> dict[str, Term]:
        assert student.logits is not None
        self.seen([(teacher if self.of == "teacher" else student)[each] for each in self.request.provide])
        return {self.key: Term(student.logits.square().mean())}


def given(provider: Provider[Any], *taps: Tap, of: str = "student", **others: Any) -> tuple[Distiller, list[Any]]:
    """A distiller, and what its method is given in each step."""
    found: list[Any] = []
    method = Provided(request=Request(taps, provide=(provider,)), of=of, seen=lambda values: found.append(values[0]))
    teacher = network().eval() if of == "teacher" else None
    with torch.no_grad():
        for module in () if teacher is None else teacher.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(0.5)
    distiller = Distiller(network(), teacher, [method], example=IMAGES, **others)
    found.clear()
    return distiller, found


@pytest.mark.parametrize("of", ["teacher", "student"])
@pytest.mark.parametrize("provider", [WeightFingerprint(), BatchNorms()])
def test_it_is_given_where_nothing_else_is_read(provider: Provider[Any], of: str) -> None:
    distiller, found = given(provider, of=of)
    assert distiller.notes == ()
    distiller(IMAGES, LABELS)
    assert len(found) == 1


def test_a_head_is_refused_where_there_is_none_though_nothing_else_is_read() -> None:
    headless = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(CaptureError, match="the student has no linear head"):
        Distiller(headless, None, [Provided(request=Request(provide=(ClassMapHead(),)))], example=IMAGES)


def test_a_gradient_without_labels_is_refused() -> None:
    distiller, _ = given(InputGradient(), task_weight=0)
    with pytest.raises(ValueError, match=r"has no labels: give them, .* Needs\(labels=True\)"):
        distiller(IMAGES)


@contextmanager
def overwriting() -> Iterator[None]:
    """Inside, a network that goes to another type has other parameters afterwards."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def other_type(distiller: Distiller) -> Tensor:
    with overwriting():
        distiller.double()
    return IMAGES.double()


def other_norm(distiller: Distiller) -> Tensor:
    norm = nn.BatchNorm2d(5)
    nn.init.constant_(norm.weight, 7)
    distiller.student.get_submodule("0").register_module("1", norm)
    return IMAGES


@pytest.mark.parametrize("change", [other_type, other_norm])
def test_norms_are_those_that_the_network_has_in_the_step(change: Callable[[Distiller], Tensor]) -> None:
    distiller, found = given(BatchNorms(), Tap("0"))
    distiller(change(distiller), LABELS)
    norm = distiller.student.get_submodule("0.1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert found[0][0].scale is norm.weight
    assert found[0][0].shift is norm.bias


class Recording(nn.Module):
    """Keeps something beside its weights, as layers of quantised networks do."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.layer, self.kept = nn.Linear(2, 2), kept

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


@pytest.mark.parametrize("kept", [{"scale": 1.0}, [object()], None, b"bytes"])
def test_what_is_no_weight_does_not_count(kept: Any) -> None:
    network = Recording(kept)
    other = Recording({"scale": 2.0})
    other.layer.load_state_dict(network.layer.state_dict())
    assert fingerprint(network) == fingerprint(other)
    with torch.no_grad():
        other.layer.weight[0, 0] += 1e-3
    assert fingerprint(network) != fingerprint(other)


def test_every_buffer_and_kept_tensor_counts() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), Recording(torch.zeros(2)))
    found = [fingerprint(network)]
    for name, change in (("0.num_batches_tracked", 1), ("0.running_var", 1), ("1._extra_state", 1)):
        other = copy.deepcopy(network)
        other.load_state_dict({n: v + change if n == name else v for n, v in network.state_dict().items()})
        found.append(fingerprint(other))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("record", "holds"),
    [
        (Reads, ("teacher", "student", "batch")),
        (Request, ("taps", "logits", "attention", "provide")),
        (Reading, ("logits", "values", "attention", "image", "computed", "output")),
        (Observed, ("logits", "features", "attention", "taps", "provided")),
    ],
)
def test_shared_records_hold_nothing_that_one_method_alone_wants(record: type[Any], holds: tuple[str, ...]) -> None:
    # What few methods want is a provider of theirs: a field here is a field of everybody's.
    assert tuple(each.name for each in fields(record)) == holds
