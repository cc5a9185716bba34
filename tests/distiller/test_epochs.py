"""Phases, and loops that say the epoch and nothing else."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import pytest
import torch
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import (
    AttentionTransfer,
    Distiller,
    FitNet,
    InputError,
    Method,
    MultiHeadGraph,
    Overhaul,
    Schedule,
    SoftTargets,
    Term,
    build,
)
from attention_transfer.batch import Batch
from attention_transfer.methods import Needs, Observed, Phase, Reads, Request
from attention_transfer.models import Description
from attention_transfer.models.fingerprint import WeightFingerprint

Pair = tuple[nn.Module, nn.Module]
EXAMPLE = torch.empty(2, 3, 16, 16)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(4) % 5


def phases_of(distiller: Distiller, epochs: int) -> list[str]:
    names: list[str] = []
    for epoch in range(distiller.num_epochs(epochs)):
        distiller.set_epoch(epoch)
        names.append(distiller.phase.name)
    return names


def test_phases_go_by_the_epoch(small_pair: Pair) -> None:
    student, teacher = small_pair
    fitnet = Distiller(student, teacher, [FitNet(hint_epochs=2)], example=EXAMPLE)
    assert phases_of(fitnet, 3) == ["hint", "hint", "task", "task", "task"]
    graphs = Distiller(student, teacher, [SoftTargets(), MultiHeadGraph(graph_epochs=1)], example=EXAMPLE)
    assert phases_of(graphs, 2) == ["graph", "transfer", "transfer"]
    assert phases_of(Distiller(student, teacher, [Overhaul()], example=EXAMPLE), 2) == ["all", "all"]
    assert graphs.num_epochs(100) == 101


def test_any_epoch_can_come_first_or_again(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [FitNet(hint_epochs=2)], example=EXAMPLE)
    for epoch, name in ((5, "task"), (0, "hint"), (np.int64(2), "task"), (1, "hint")):
        distiller.set_epoch(epoch)
        assert distiller.phase.name == name
    for wrong in (-1, 1.5, "2", True, None):
        with pytest.raises(InputError, match="epoch must be"):
            distiller.set_epoch(wrong)  # pyright: ignore[reportArgumentType]
    assert distiller.phase.name == "hint"


def test_a_training_of_several_phases_wants_its_epochs_said(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [FitNet(hint_epochs=2)], example=EXAMPLE)
    with pytest.raises(InputError, match=r"has 2 phases, hint and task, .* call distiller.set_epoch\(epoch\)"):
        distiller(*batch())
    with torch.no_grad():
        assert set(distiller(*batch()).terms) == {"ce", "fitnet"}
    distiller.eval()(*batch())
    distiller.train().set_epoch(0)
    assert set(distiller(*batch()).terms) == {"fitnet"}
    by_hand = Distiller(*small_pair, [FitNet(hint_epochs=2)], example=EXAMPLE)
    by_hand.set_phase(by_hand.phases[-1])
    assert set(by_hand(*batch()).terms) == {"ce"}
    for methods in ([], [AttentionTransfer()], [FitNet()], [MultiHeadGraph(graph_epochs=0)]):
        teacher = small_pair[1] if methods else None
        Distiller(small_pair[0], teacher, methods, example=EXAMPLE)(*batch())


def test_a_phase_that_was_entered_by_hand_is_left_by_hand(small_pair: Pair) -> None:
    method = FitNet(hint_epochs=2, schedule=Schedule(warmup_epochs=4))
    distiller = Distiller(*small_pair, [method], example=EXAMPLE)
    distiller.set_phase(distiller.phases[0], first_epoch=0)
    for epoch in range(4):
        distiller.set_epoch(epoch)
        assert distiller.phase.name == "hint"
        assert float(distiller(*batch()).terms["fitnet"].weight) == 25.0 * (epoch + 1)


def test_schedules_count_from_the_phase_that_the_epoch_belongs_to(small_pair: Pair) -> None:
    methods = [FitNet(hint_epochs=2), SoftTargets(weight=1.0, schedule=Schedule(warmup_epochs=2))]
    distiller = Distiller(*small_pair, methods, example=EXAMPLE)
    weights: list[float] = []
    for epoch in range(2, 5):
        distiller.set_epoch(epoch)
        weights.append(float(distiller(*batch()).terms["kd"].weight))
    assert weights == [0.5, 1.0, 1.0]


# ---------------------------------------------------------------------- one optimiser for all phases


@pytest.mark.parametrize("early", [True, False], ids=["made before the epochs", "made in the first epoch"])
@pytest.mark.parametrize("to_none", [True, False], ids=["gradients of None", "gradients of zeros"])
@pytest.mark.parametrize("method", [FitNet(hint_epochs=1), MultiHeadGraph(graph_epochs=1)], ids=lambda m: m.key)
def test_one_optimiser_moves_in_each_phase_what_the_phase_trains(
    small_pair: Pair, method: Method, to_none: bool, early: bool
) -> None:
    distiller = Distiller(*small_pair, [method], example=EXAMPLE)
    if not early:
        distiller.set_epoch(0)
    optimizer = torch.optim.AdamW(distiller.trainable_parameters(), lr=0.01, weight_decay=0.1)
    moved: list[set[str]] = []
    for epoch in range(2):
        distiller.set_epoch(epoch)
        before = {name: p.detach().clone() for name, p in distiller.named_parameters()}
        for _ in range(2):
            out = distiller(*batch())
            optimizer.zero_grad(set_to_none=to_none)
            out.loss.backward()
            optimizer.step()
        moved.append({name for name, p in distiller.named_parameters() if not torch.equal(p, before[name])})
    parts = {f"parts.{name}" for name, _ in distiller.parts.named_parameters()}
    student = {f"student.{name}" for name, _ in distiller.student.named_parameters()}
    # An adapter brings the student to the teacher's widths, and learns with it.
    heads = {name for name in parts if ".adapters." not in name}
    if method.key == "mhgd":
        assert moved == [heads, student | parts - heads]
    else:
        assert moved[0] > parts
        assert moved[0] < student | parts
        assert moved[1] == student


@dataclass(frozen=True)
class Probe(Method):
    """Learns from the student's features in a phase in which the student rests."""

    key: ClassVar[str] = "probe"

    @property
    def phases(self) -> tuple[Phase, ...]:
        return Phase("main", without=("probe",)), Phase("probe", trains="parts", terms=("probe",), epochs=2)

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        return Reads(student=Request((student.stages[-1].output,)), batch=Needs(labels=True))

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        return nn.Linear(student.features[0].shape[1], 5)

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        assert parts is not None
        logits = parts(student.features[0].mean((2, 3)))
        return {"probe": Term(nn.functional.cross_entropy(logits, batch.label))}


def test_a_phase_after_the_main_one_is_entered_where_its_epochs_are_said(small_pair: Pair) -> None:
    distiller = Distiller(small_pair[0], None, [Probe()], example=EXAMPLE)
    with pytest.raises(InputError, match=r"set_epoch\(epoch, epochs=...\)"):
        distiller.set_epoch(0)
    names: list[str] = []
    for epoch in range(distiller.num_epochs(3)):
        distiller.set_epoch(epoch, epochs=3)
        names.append(distiller.phase.name)
        before = copy.deepcopy(distiller.student.state_dict())
        out = distiller(*batch())
        out.loss.backward()
        resting = distiller.student if names[-1] == "probe" else distiller.parts
        assert all(p.grad is None for p in resting.parameters())
        if names[-1] == "probe":
            assert all(torch.equal(value, before[name]) for name, value in distiller.student.state_dict().items())
    assert names == ["main"] * 3 + ["probe"] * 2
    with pytest.raises(InputError, match="epoch 5 comes after the training, whose phases have 5 epochs"):
        distiller.set_epoch(5, epochs=3)


# ---------------------------------------------------------------------- what is the owner's to say


@pytest.mark.parametrize("when", ["before", "in the first phase", "in the second phase"])
@pytest.mark.parametrize("method", [FitNet(hint_epochs=1), MultiHeadGraph(graph_epochs=1)], ids=lambda m: m.key)
def test_what_its_owner_froze_stays_frozen_in_every_phase(small_pair: Pair, method: Method, when: str) -> None:
    distiller = Distiller(*small_pair, [method], example=EXAMPLE)
    student, part = distiller.student, next(distiller.parts.parameters())
    frozen = [student.layer1[0][0].weight, *([part] if when == "before" else [])]
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1, weight_decay=0.1)
    if when == "in the first phase":
        distiller.set_epoch(0)
    elif when == "in the second phase":
        distiller.set_epoch(1)
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in frozen]
    for epoch in range(3):
        distiller.set_epoch(epoch)
        assert not any(parameter.requires_grad for parameter in frozen)
        out = distiller(*batch())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert all(torch.equal(p, value) for p, value in zip(frozen, before, strict=True))
    assert not {id(p) for p in frozen} & {id(p) for p in distiller.trainable_parameters()}
    distiller.detach()
    assert not any(parameter.requires_grad for parameter in frozen)


def test_what_its_owner_thaws_moves_again(small_pair: Pair) -> None:
    student = small_pair[0]
    student.layer1.requires_grad_(False)
    distiller = Distiller(*small_pair, [FitNet(stages=(1,), hint_epochs=1)], example=EXAMPLE)
    distiller.set_epoch(1)
    student.layer1.requires_grad_(True)
    distiller(*batch()).loss.backward()
    assert all(p.grad is not None for p in student.layer1.parameters())
    assert {id(p) for p in student.layer1.parameters()} <= {id(p) for p in distiller.trainable_parameters()}


def test_batch_norms_that_their_owner_put_to_rest_are_so_after_a_phase_too(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [MultiHeadGraph(graph_epochs=1)], example=EXAMPLE)
    student = distiller.train().student
    norm = student.layer1[0][1]
    norm.eval()
    distiller.set_epoch(0)
    assert not student.training
    distiller.set_epoch(1)
    assert student.training
    assert not norm.training
    distiller.set_epoch(0)
    distiller.train()
    assert not student.training
    distiller.set_epoch(1)
    assert norm.training


def test_a_distiller_that_is_detached_in_a_phase_leaves_nothing_at_rest(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [MultiHeadGraph(graph_epochs=1)], example=EXAMPLE).train()
    distiller.set_epoch(0)
    distiller.detach()
    assert all(module.training for module in distiller.student.modules())
    assert all(p.requires_grad for p in distiller.student.parameters())
    distiller.detach()
    for call in (distiller.predict, distiller):
        with pytest.raises(InputError, match="was detached from its networks: build a new one"):
            call(batch()[0])


# ---------------------------------------------------------------- phases

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


def batch_of_three_classes() -> tuple[Tensor, Tensor]:
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
    out = distiller(*batch_of_three_classes())
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
    out = distiller(*batch_of_three_classes())
    assert set(out.terms) == {"ce", "scale", "kd"}
    assert moving(distiller) == {"parts.scale.joint.weight", "parts.scale.joint.bias"}
    assert all(p.requires_grad for p in distiller.student.parameters())
    distiller.set_phase(Phase("all"))
    assert len(moving(distiller)) == 4
    assert set(distiller(*batch_of_three_classes()).terms) == {"ce", "scale-own", "scale", "kd"}


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
    assert set(distiller(*batch_of_three_classes()).terms) == {"fitnet2"}
    distiller.set_phase(task)
    assert set(distiller(*batch_of_three_classes()).terms) == {"ce", "scale-own", "scale", "fitnet"}


def test_two_methods_that_divide_the_training_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"fitnet and mhgd each divide .* leave one out, or .* without hint_epochs"):
        make(FitNet(hint_epochs=2), MultiHeadGraph())
