"""Phases: what counts, what moves, and what does not even run."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import pytest
import torch
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import (
    AttentionTransfer,
    Distiller,
    FitNet,
    Method,
    MultiHeadGraph,
    SoftTargets,
    Term,
    build,
)
from attention_transfer.batch import Batch
from attention_transfer.methods import Observed, Phase, Reads, Request
from attention_transfer.models import Description
from attention_transfer.models.fingerprint import WeightFingerprint

FIRST = Phase("first", trains="parts", terms=("scale-own",), runs_student=False)
SECOND = Phase("second", without=("scale-own",))


@dataclass(frozen=True)
class Scale(Method):
    """Learns something of the teacher's features alone, and a second thing with the student."""

    key = "scale"

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        assert teacher is not None
        theirs, ours = (teacher.stages[-1].output,), (student.stages[-1].output,)
        return Reads(Request(theirs, provide=(WeightFingerprint(),)), Request(ours))

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        mark = teacher[WeightFingerprint()]
        channels = teacher.features[0].shape[1]
        parts = nn.ModuleDict({"own": nn.Linear(channels, 1), "joint": nn.Linear(channels, channels)})
        parts.register_buffer("teacher", torch.tensor(list(mark.weights), dtype=torch.uint8))
        return parts

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        layers = cast(nn.ModuleDict, parts)
        theirs = teacher.features[0].mean((2, 3))
        terms = {"scale-own": Term((layers["own"](theirs) - 1).square().mean())}
        if student.features:
            ours = student.features[0].mean((2, 3))
            terms["scale"] = Term((layers["joint"](ours) - theirs).square().mean())
        return terms


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(4) % 3


def make(*methods: Method) -> Distiller:
    torch.manual_seed(0)
    networks = build("resnet8", 3), as_trained(build("resnet14", 3))
    return Distiller(*networks, [Scale(), *methods], example=torch.empty(2, 3, 16, 16))


def moving(distiller: Distiller) -> set[str]:
    return {name for name, p in distiller.named_parameters() if p.requires_grad and name.startswith("parts.")}


def test_a_student_that_does_not_run_is_untouched_to_the_byte_and_other_methods_wait() -> None:
    distiller = make(AttentionTransfer(), SoftTargets())
    before = copy.deepcopy(distiller.student.state_dict())
    distiller.set_phase(FIRST)
    distiller.train()
    distiller.student.forward = pytest.fail
    out = distiller(*batch())
    assert set(out.terms) == {"scale-own"}
    assert out.student_logits.shape == (4, 0)
    distiller.backward(out)
    assert moving(distiller) == {"parts.scale.own.weight", "parts.scale.own.bias"}
    got = {name for name, p in distiller.named_parameters() if p.grad is not None}
    assert got == {"parts.scale.own.weight", "parts.scale.own.bias"}
    assert all(torch.equal(value, before[name]) for name, value in distiller.student.state_dict().items())


def test_what_no_term_of_a_phase_reaches_rests_and_the_student_keeps_all_it_has() -> None:
    distiller = make(SoftTargets())
    distiller.set_phase(SECOND)
    out = distiller(*batch())
    assert set(out.terms) == {"ce", "scale", "kd"}
    assert moving(distiller) == {"parts.scale.joint.weight", "parts.scale.joint.bias"}
    assert all(p.requires_grad for p in distiller.student.parameters())
    distiller.set_phase(Phase("all"))
    assert len(moving(distiller)) == 4
    assert set(distiller(*batch()).terms) == {"ce", "scale-own", "scale", "kd"}


def test_a_teacher_is_known_by_its_weights() -> None:
    marks = [cast(Tensor, make().parts.get_buffer("scale.teacher")) for _ in range(2)]
    assert torch.equal(marks[0], marks[1])
    assert marks[0].shape == (32,)
    torch.manual_seed(1)
    other = Distiller(
        build("resnet8", 3), as_trained(build("resnet14", 3)), [Scale()], example=torch.empty(2, 3, 16, 16)
    )
    assert not torch.equal(marks[0], other.parts.get_buffer("scale.teacher"))


def test_phases_of_the_second_of_a_kind_are_of_its_own_terms() -> None:
    distiller = make(FitNet(stages=(0,)), FitNet(stages=(1,), hint_epochs=2))
    hint, task = distiller.phases
    distiller.set_phase(hint)
    assert set(distiller(*batch()).terms) == {"fitnet2"}
    distiller.set_phase(task)
    assert set(distiller(*batch()).terms) == {"ce", "scale-own", "scale", "fitnet"}


def test_two_methods_that_divide_the_training_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"fitnet and mhgd each divide .* leave one out, or .* without hint_epochs"):
        make(FitNet(hint_epochs=2), MultiHeadGraph())
