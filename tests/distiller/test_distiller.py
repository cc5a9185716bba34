"""The meeting point: what it computes, what it leaves alone, what it refuses."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import AttentionTransfer, Distiller, Input, Schedule, SoftTargets
from attention_transfer.batch import Batch
from attention_transfer.capture import CaptureError, Replacement, Tap
from attention_transfer.methods import GradientLimit, Method, Needs, Observed, Phase, Reads, Request, Term
from attention_transfer.models import Description

Pair = tuple[nn.Module, nn.Module]
EXAMPLE = torch.empty(2, 3, 16, 16)


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count) % 5


def both(pair: Pair, **kwargs: float) -> Distiller:
    student, teacher = pair
    methods = [AttentionTransfer(weight=1000.0), SoftTargets(weight=0.9, temperature=4.0)]
    return Distiller(student, teacher, methods, task_weight=kwargs.get("task_weight", 0.1), example=EXAMPLE)


def test_loss_is_the_weighted_sum_of_its_terms(small_pair: Pair) -> None:
    images, labels = batch()
    out = both(small_pair)(images, labels)
    assert list(out.terms) == ["ce", "at", "kd"]
    assert [term.weight for term in out.terms.values()] == [0.1, 1000.0, 0.9]
    total = sum(term.weight * term.value.item() for term in out.terms.values())
    assert out.loss.item() == pytest.approx(total, rel=1e-6)
    assert out.terms["ce"].value.item() == pytest.approx(functional.cross_entropy(out.student_logits, labels).item())


def test_label_probabilities_and_class_numbers_agree(small_pair: Pair) -> None:
    images, labels = batch()
    distiller = both(small_pair).eval()
    hard = distiller(images, labels).loss
    soft = distiller(images, functional.one_hot(labels, 5).float()).loss
    torch.testing.assert_close(hard, soft)


def test_teacher_is_left_alone(small_pair: Pair) -> None:
    distiller = both(small_pair)
    before = copy.deepcopy(small_pair[1].state_dict())
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
    for _ in range(2):
        out = distiller(*batch())
        out.loss.backward()
        optimizer.step()
    assert not any(module.training for module in small_pair[1].modules())
    assert all(p.grad is None for p in small_pair[1].parameters())
    for name, value in small_pair[1].state_dict().items():
        assert torch.equal(value, before[name]), name


def test_teacher_is_in_neither_parameters_nor_state(small_pair: Pair) -> None:
    distiller = both(small_pair)
    assert {id(p) for p in distiller.parameters()} == {id(p) for p in small_pair[0].parameters()}
    assert set(distiller.state_dict()) == {f"student.{name}" for name in small_pair[0].state_dict()}


def test_teacher_follows_dtype_and_memory_format(small_pair: Pair) -> None:
    distiller = both(small_pair).double().to(memory_format=torch.channels_last)
    images, labels = batch()
    assert distiller(images.double(), labels).teacher_logits.dtype == torch.float64
    assert small_pair[1].layer2[0][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_student_stays_the_users_own_object(small_pair: Pair) -> None:
    student = small_pair[0]
    keys = list(student.state_dict())
    distiller = both(small_pair)
    assert distiller.student is student
    assert list(student.state_dict()) == keys
    twin = copy.deepcopy(student)
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
    distiller(*batch()).loss.backward()
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(twin.parameters(), student.parameters(), strict=True))
    twin(batch()[0])


def test_building_leaves_everything_as_it_was(small_pair: Pair) -> None:
    before = [copy.deepcopy(network.state_dict()) for network in small_pair]
    modes = [module.training for module in small_pair[0].modules()]
    random_state = torch.get_rng_state()
    both(small_pair)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in small_pair[0].modules()] == modes
    for network, state in zip(small_pair, before, strict=True):
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name]), name
        assert all(p.grad is None for p in network.parameters())


def test_detaching_leaves_no_hook_and_gives_the_teacher_back(small_pair: Pair) -> None:
    student, teacher = small_pair
    both(small_pair).detach()
    for network in (student, teacher):
        for module in network.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert module.training
    assert all(p.requires_grad for p in teacher.parameters())


def test_a_failed_build_leaves_no_hook(small_pair: Pair) -> None:
    student, teacher = small_pair
    method = AttentionTransfer(student_layers=("layer1", "nowhere"), teacher_layers=("layer1", "layer2"))
    with pytest.raises(CaptureError, match="the student has no module 'nowhere'"):
        Distiller(student, teacher, [method], example=EXAMPLE)
    with pytest.raises(ValueError, match="same classes"):
        Distiller(student, type(teacher)(6, classes=7), [AttentionTransfer(), SoftTargets()], example=EXAMPLE)
    assert not any(module._forward_hooks for network in small_pair for module in network.modules())
    assert all(p.requires_grad for p in teacher.parameters())


def test_teacher_runs_no_further_than_it_is_read(small_pair: Pair) -> None:
    student, teacher = small_pair
    distiller = Distiller(student, teacher, [AttentionTransfer()], example=EXAMPLE)
    ran = list[int]()
    teacher.fc.register_forward_hook(lambda *_: ran.append(1))
    assert distiller(*batch()).teacher_logits is None
    assert not ran


def test_training_without_labels_needs_none(small_pair: Pair) -> None:
    distiller = both(small_pair, task_weight=0.0)
    assert list(distiller(batch()[0]).terms) == ["at", "kd"]
    with pytest.raises(ValueError, match="labels are needed"):
        both((copy.deepcopy(small_pair[0]), small_pair[1]))(batch()[0])


def test_parameters_that_nothing_reaches_are_declared(small_pair: Pair) -> None:
    student, teacher = small_pair
    distiller = Distiller(student, teacher, [AttentionTransfer()], task_weight=0, example=EXAMPLE)
    assert distiller.unused_parameters() == ("student.fc.weight", "student.fc.bias")
    assert both((copy.deepcopy(student), teacher)).unused_parameters() == ()


def test_weights_follow_their_schedules(small_pair: Pair) -> None:
    student, teacher = small_pair
    method = AttentionTransfer(weight=100.0, schedule=Schedule(warmup_epochs=4))
    distiller = Distiller(student, teacher, [method, SoftTargets()], example=EXAMPLE)
    for epoch, wanted in enumerate([25.0, 50.0, 75.0, 100.0, 100.0]):
        distiller.set_epoch(epoch)
        out = distiller(*batch())
        assert float(out.terms["at"].weight) == wanted
        assert out.terms["kd"].weight == 0.9


def test_two_of_a_kind_keep_their_own_weights(small_pair: Pair) -> None:
    student, teacher = small_pair
    methods = [AttentionTransfer(weight=1.0, stages=(0,)), AttentionTransfer(weight=2.0, stages=(1,))]
    out = Distiller(student, teacher, methods, example=EXAMPLE)(*batch())
    assert {name: term.weight for name, term in out.terms.items()} == {"ce": 1.0, "at": 1.0, "at2": 2.0}
    assert out.terms["at"].value != out.terms["at2"].value


def test_teacher_gets_its_own_normalisation_and_size(small_pair: Pair) -> None:
    student, teacher = small_pair
    ours = Input((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    theirs = Input((0.1, 0.2, 0.3), (0.3, 0.2, 0.1), size=(32, 32))
    distiller = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE, student_input=ours, teacher_input=theirs)
    raw = torch.rand(2, 3, 16, 16)

    def normalised(how: Input) -> Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (how.mean, how.std))
        return (raw - mean) / std

    found = distiller.teacher_images(normalised(ours))
    assert found.shape == (2, 3, 32, 32)
    wanted = functional.interpolate(normalised(theirs), (32, 32), mode="bicubic", antialias=True)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="teacher_input needs student_input"):
        Distiller(student, teacher, [SoftTargets()], example=EXAMPLE, teacher_input=theirs)


def test_autocast_changes_the_networks_but_not_the_losses(small_pair: Pair) -> None:
    distiller = both(small_pair).eval()
    images, labels = batch()
    exact = distiller(images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        half = distiller(images, labels)
    assert half.student_logits.dtype == torch.bfloat16
    for name, term in half.terms.items():
        assert term.value.dtype == torch.float32
        torch.testing.assert_close(term.value, exact.terms[name].value, rtol=0.1, atol=2e-3)


def test_one_step_lowers_the_objective(small_pair: Pair) -> None:
    distiller = both(small_pair)
    images, labels = batch(16)
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=1e-3)
    first = distiller(images, labels)
    first.loss.backward()
    optimizer.step()
    assert distiller(images, labels).loss < first.loss


@dataclass(frozen=True)
class Limited(Method):
    """A term on the logits whose gradient is bounded by the task's."""

    key: ClassVar[str] = "limited"
    ratio: float = 0.5

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        return Reads()

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        return {
            "limited": Term(
                1000 * student.logits.square().mean(), limit=GradientLimit(lambda epoch: self.ratio * (epoch + 1))
            )
        }


def test_a_limited_term_moves_no_parameter_further_than_its_share_of_the_task(small_pair: Pair) -> None:
    student = small_pair[0]
    distiller = Distiller(student, small_pair[1], [Limited(), SoftTargets()], example=EXAMPLE)
    distiller.set_epoch(4)
    distiller.set_phase(Phase("later"), first_epoch=3)
    out = distiller(*batch())
    parameters = list(distiller.parameters())
    task = torch.autograd.grad(out.terms["ce"].weighted, parameters, retain_graph=True)
    other = torch.autograd.grad(out.terms["limited"].weighted, parameters, retain_graph=True, allow_unused=True)
    soft = torch.autograd.grad(out.terms["kd"].weighted, parameters, retain_graph=True)
    distiller.backward(out)
    for parameter, ours, theirs, free in zip(parameters, task, other, soft, strict=True):
        # Epoch 1 of the phase: 0.5 · 2 of the task's gradient; soft targets are no part of the measure.
        wanted = ours + free + theirs * min(1.0, 1.0 * float(ours.norm() / theirs.norm()))
        torch.testing.assert_close(parameter.grad, wanted)


def test_backward_without_limits_is_the_plain_one(small_pair: Pair) -> None:
    distiller = both(small_pair)
    out = distiller(*batch())
    plain = torch.autograd.grad(out.loss, list(distiller.parameters()), retain_graph=True)
    distiller.backward(out)
    assert all(torch.equal(p.grad, g) for p, g in zip(distiller.parameters(), plain, strict=True))


@dataclass(frozen=True)
class Regressor(Method):
    """Learns a map from the student's last stage to the teacher's, in a phase of its own first."""

    key: ClassVar[str] = "regress"
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("parts", trains="parts", terms=("regress",), epochs=1),
        Phase("student", trains="student"),
    )

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        return Reads(Request((teacher.stages[-1].output,)), Request((student.stages[-1].output,)), Needs(index=True))

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        return nn.Conv2d(student.features[0].shape[1], teacher.features[0].shape[1], 1)

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        return {"regress": Term(functional.mse_loss(parts(student.features[0]), teacher.features[0]))}


def test_parts_are_sized_by_the_probe_and_trained_saved_and_phased(small_pair: Pair) -> None:
    student, teacher = small_pair
    distiller = Distiller(student, teacher, [Regressor()], example=EXAMPLE)
    assert distiller.parts["regress"].weight.shape == (12, 8, 1, 1)
    assert "parts.regress.weight" in distiller.state_dict()
    first, second = distiller.phases
    distiller.set_phase(first)
    assert set(distiller.trained_modules()) == {"parts"}
    assert not student.training
    assert distiller.unused_parameters() == tuple(f"student.{name}" for name, _ in student.named_parameters())
    images, labels = batch()
    out = distiller(images, labels, torch.arange(4))
    assert list(out.terms) == ["regress"]
    out.loss.backward()
    assert all(p.grad is None for p in student.parameters())
    assert all(p.grad is not None for p in distiller.parts.parameters())
    distiller.set_phase(second)
    assert student.training
    assert not distiller.parts.training
    assert all(p.requires_grad for p in student.parameters())
    assert list(distiller(images, labels, torch.arange(4)).terms) == ["ce", "regress"]
    with pytest.raises(ValueError, match="index is needed"):
        distiller(images, labels)


@dataclass(frozen=True)
class Given(Method):
    """The student goes on with the teacher's first stage."""

    key: ClassVar[str] = "given"

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        return Reads(Request((Tap("layer1"),)), Request((Tap("layer1"),)))

    def replace(self, teacher: Observed, reads: Reads, parts: nn.Module | None) -> Mapping[Tap, Replacement]:
        return {Tap("layer1"): teacher.features[0]}

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        return {}


def test_a_replaced_value_carries_the_students_run_and_unreached_parameters_are_known(small_pair: Pair) -> None:
    student = small_pair[0]
    teacher = type(student)(4)
    teacher.layer1.requires_grad_(False)
    distiller = Distiller(student, teacher, [Given()], example=EXAMPLE)
    assert {name.split(".")[1] for name in distiller.unused_parameters()} == {"layer1"}
    images, labels = batch()
    out = distiller.eval()(images, labels)
    wanted = student.fc(student.layer2(teacher.layer1(images)).mean((2, 3)))
    torch.testing.assert_close(out.student_logits, wanted)


def test_images_of_a_size_that_a_network_was_not_built_for_are_refused(small_pair: Pair) -> None:
    student, teacher = small_pair
    teacher.fc = nn.Linear(7, 5)
    with pytest.raises(CaptureError, match=r"the teacher cannot run on images of shape \(2, 3, 16, 16\)"):
        Distiller(student, teacher, [SoftTargets()], example=EXAMPLE)


@dataclass(frozen=True)
class TeacherInTraining(SoftTargets):
    """Soft targets of a teacher whose batch norm follows the batch."""

    @property
    def teacher_mode(self) -> Literal["eval", "train", "same noise"]:
        return "train"


def test_a_method_may_ask_for_a_teacher_in_training_mode(small_pair: Pair) -> None:
    student, teacher = small_pair
    distiller = Distiller(student, teacher, [TeacherInTraining()], example=EXAMPLE)
    assert teacher.training
    assert not distiller.eval().training
    assert not teacher.training
    distiller.train()
    assert teacher.training


def test_impossible_pairs_are_refused(small_pair: Pair) -> None:
    student, teacher = small_pair
    with pytest.raises(ValueError, match="the same object"):
        Distiller(student, student, [SoftTargets()], example=EXAMPLE)
    shared = copy.deepcopy(teacher)
    shared.layer1 = student.layer1
    with pytest.raises(ValueError, match="share parameters"):
        Distiller(student, shared, [SoftTargets()], example=EXAMPLE)
    with pytest.raises(ValueError, match="compile the distiller instead"):
        Distiller(torch.compile(student, backend="eager"), teacher, [AttentionTransfer()], example=EXAMPLE)
    with pytest.raises(ValueError, match="nothing to learn from"):
        Distiller(student, teacher, [], task_weight=0, example=EXAMPLE)
    with pytest.raises(ValueError, match="task_weight"):
        Distiller(student, teacher, [SoftTargets()], task_weight=math.nan, example=EXAMPLE)
    with pytest.raises(ValueError, match="need a teacher"):
        Distiller(student, None, [SoftTargets()], example=EXAMPLE)
    with pytest.raises(ValueError, match="there is no stage 5"):
        Distiller(student, teacher, [AttentionTransfer(stages=(5,))], example=EXAMPLE)
    with pytest.raises(ValueError, match="every parameter of the student is frozen"):
        Distiller(copy.deepcopy(student).requires_grad_(False), teacher, [SoftTargets()], example=EXAMPLE)
