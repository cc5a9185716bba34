"""Soft targets, decoupled ones and the token against the authors' values, slow loops, and their refusals."""

import math
from dataclasses import replace
from math import exp, log

import pytest
import timm
import torch
from tests.closeness import assert_near
from tests.conftest import SmallNet
from tests.trained import as_trained
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import AttentionDistillation, AttentionTransfer, Distiller, Schedule, build
from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.methods import (
    Contrastive,
    DecoupledSoftTargets,
    DistillationToken,
    Method,
    Observed,
    Reads,
    SoftTargets,
)
from attention_transfer.methods.decoupled_soft_targets import decoupled_divergences
from attention_transfer.methods.distillation_token import hard_target_loss
from attention_transfer.methods.soft_targets import soft_target_divergence
from attention_transfer.models import describe
from attention_transfer.models.introspection.description import Description
from attention_transfer.models.meta_networks import outline


def test_value_and_gradient_are_those_of_the_authors(golden: dict[str, Tensor]) -> None:
    student = golden["student_logits"].clone().requires_grad_()
    value = soft_target_divergence(student, golden["teacher_logits"], 4.0)
    value.backward()
    assert_near(value, golden["kd_T4"])
    wanted = golden["kd_T4.grad.student_logits"]
    assert_near(student.grad, wanted)


def test_value_equals_a_loop_written_from_the_paper() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    temperature, total = 3.0, 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(z / temperature) for z in row] for row in (theirs, ours))
        for a, b in zip(p, q, strict=True):
            total += a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
    assert float(soft_target_divergence(student, teacher, temperature)) == pytest.approx(9 * total / 3, rel=1e-12)


def test_gradient_is_right_in_double_precision_and_stops_at_the_teacher() -> None:
    student = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: soft_target_divergence(s, teacher.detach(), 2.0), (student,))
    soft_target_divergence(student, teacher, 2.0).backward()
    assert teacher.grad is None


def test_extreme_logits_stay_finite() -> None:
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = soft_target_divergence(student, torch.tensor([[-1e4, 1e4]]), 1.0)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        SoftTargets(temperature=temperature)


@pytest.mark.parametrize("method", [SoftTargets, DecoupledSoftTargets, DistillationToken, Contrastive])
@pytest.mark.parametrize("temperature", [1e300, 1e5, 1e-40, 1e-5])
def test_a_temperature_that_float32_cannot_compute_with_is_refused(method: type[Method], temperature: float) -> None:
    with pytest.raises(InputError, match=r"temperature must lie between 0\.0001 and 10000, not"):
        method(temperature=temperature)


def test_a_missing_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="need a teacher"):
        SoftTargets().reads(None, Description(stages=()))


# ---------------- decoupled soft targets against the paper's equations and the authors' code

EXAMPLE = torch.empty(2, 3, 8, 8)


def slow(student: list[float], teacher: list[float], label: int, temperature: float) -> tuple[float, float]:
    """Eq. 5 to 7 for one image, by probabilities."""
    probabilities: list[list[float]] = []
    for logits in (student, teacher):
        powers = [exp(z / temperature) for z in logits]
        probabilities.append([p / sum(powers) for p in powers])
    ours, theirs = probabilities
    p, q = theirs[label], ours[label]
    target = p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))
    others = 0.0
    for k in range(len(ours)):
        if k != label:
            mine, wanted = ours[k] / (1 - q), theirs[k] / (1 - p)
            others += wanted * log(wanted / mine)
    return temperature**2 * target, temperature**2 * others


def logits(count: int = 4, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    student, teacher = (3 * torch.randn(count, classes, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher, torch.tensor([0, 2, 4, 2])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_halves_are_the_papers(temperature: float) -> None:
    student, teacher, label = logits()
    wanted = [slow(*row, temperature) for row in zip(student.tolist(), teacher.tolist(), label.tolist(), strict=True)]
    found = decoupled_divergences(student, teacher, label, temperature)
    for i in range(2):
        assert found[i].item() == pytest.approx(sum(row[i] for row in wanted) / 4, rel=1e-12)
    assert torch.autograd.gradcheck(lambda s: decoupled_divergences(s, teacher, label, temperature), student)


def test_they_add_up_to_soft_targets() -> None:
    student, teacher, label = logits()
    for i in range(4):
        one = slice(i, i + 1)
        target, others = decoupled_divergences(student[one], teacher[one], label[one], 2.0)
        sure = (teacher[i] / 2).softmax(0)[label[i]]
        whole = 4 * (teacher[i] / 2).softmax(0) @ ((teacher[i] / 2).log_softmax(0) - (student[i] / 2).log_softmax(0))
        torch.testing.assert_close(target + (1 - sure) * others, whole)


def test_value_and_gradient_are_those_of_the_authors_code(golden: dict[str, Tensor]) -> None:
    student = golden["student_logits"].clone().requires_grad_()
    target, others = decoupled_divergences(student, golden["teacher_logits"], golden["labels"], 4.0)
    value = target + 8 * others
    value.backward()
    assert_near(value, golden["dkd_a1_b8_T4"])
    assert_near(student.grad, golden["dkd_a1_b8_T4.grad.student_logits"])


def test_a_teacher_that_is_perfectly_sure_still_ranks_the_others() -> None:
    student = torch.tensor([[200.0, 1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[300.0, 0.0, 2.0]])
    target, others = decoupled_divergences(student, teacher, torch.tensor([0]), 1.0)
    assert_near(target, 0.0, scale=1.0)
    assert others.item() == pytest.approx(slow([0.0, 1.0, 0.0], [0.0, 0.0, 2.0], 0, 1.0)[1], rel=1e-5)
    (gradient,) = torch.autograd.grad(target + others, student)
    assert gradient.isfinite().all()
    assert gradient[0, 1] > 0 > gradient[0, 2]


def test_the_weight_rises_over_the_first_twenty_epochs(small_pair: tuple[nn.Module, nn.Module]) -> None:
    method = DecoupledSoftTargets(weight=3.0, target_weight=0.5, other_weight=2.0)
    distiller = Distiller(*small_pair, [method], example=EXAMPLE)
    found: dict[int, tuple[float, float]] = {}
    for epoch in (0, 9, 19, 200):
        distiller.set_epoch(epoch)
        terms = distiller(torch.randn(4, 3, 8, 8), torch.arange(4)).terms
        assert list(terms) == ["ce", "dkd-target", "dkd-others"]
        found[epoch] = float(terms["dkd-target"].weight), float(terms["dkd-others"].weight)
    for epoch, share in {0: 0.05, 9: 0.5, 19: 1.0, 200: 1.0}.items():
        assert found[epoch] == pytest.approx((1.5 * share, 6.0 * share))
    assert replace(method, schedule=Schedule()).schedule.constant


def test_what_does_not_fit_is_refused(small_pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = small_pair
    with pytest.raises(ValueError, match="the teacher has 5, the student 7"):
        Distiller(SmallNet(classes=7), teacher, [DecoupledSoftTargets()], example=EXAMPLE)
    with pytest.raises(ValueError, match="of 2 classes there is nothing to rank"):
        Distiller(SmallNet(classes=2), SmallNet(classes=2), [DecoupledSoftTargets()], example=EXAMPLE)
    with pytest.raises(ValueError, match="need a teacher"):
        Distiller(student, None, [DecoupledSoftTargets()], example=EXAMPLE)
    for settings in ({"target_weight": -1.0}, {"other_weight": float("nan")}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            DecoupledSoftTargets(**settings)


def test_labels_are_needed_and_must_be_single_classes(small_pair: tuple[nn.Module, nn.Module]) -> None:
    distiller = Distiller(*small_pair, [DecoupledSoftTargets(), SoftTargets()], task_weight=0, example=EXAMPLE)
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match="labels are needed"):
        distiller(images)
    with pytest.raises(ValueError, match="dkd: labels must be class indices"):
        distiller(images, torch.full((2, 5), 0.2))


def test_images_without_a_label_are_left_out() -> None:
    student, teacher, labels = logits()
    some = labels.clone()
    some[1::2] = -100
    found = decoupled_divergences(student, teacher, some, 4.0)
    torch.testing.assert_close(found, decoupled_divergences(student[::2], teacher[::2], labels[::2], 4.0))
    gradient = torch.autograd.grad(sum(found), student)[0]
    assert gradient[::2].any(1).all()
    assert not gradient[1::2].any()
    assert sum(decoupled_divergences(student, teacher, torch.full_like(labels, -100), 4.0)) == 0


# ---------------------------------------------------------------- the distillation token

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 6}
TOKEN_EXAMPLE = torch.empty(2, 3, 16, 16)


def student() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("deit_tiny_distilled_patch16_224", **SIZES)


def teacher(classes: int = 6) -> nn.Module:
    torch.manual_seed(1)
    return as_trained(build("resnet8", classes))


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(2)), torch.arange(count) % 6


def two_heads(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What both heads give, as timm hands it over where its own switch is on."""
    network.set_distilled_training(True)
    of_class, of_distillation = network.train()(images)
    network.set_distilled_training(False)
    return of_class, of_distillation


def term(method: DistillationToken, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    seen = Observed(student_logits, (torch.zeros_like(student_logits), student_logits))
    (value,) = method.terms(None, Observed(teacher_logits), seen, None).values()  # pyright: ignore[reportArgumentType]
    return value.value


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("deit_hard_a05", DistillationToken(kind="hard")),
        ("deit_soft_a05_t3", DistillationToken(kind="soft", temperature=3.0)),
    ],
)
def test_value_and_gradient_of_the_token_are_those_of_the_authors(
    golden: dict[str, Tensor], key: str, method: DistillationToken
):
    of_class = golden["student_logits"].clone().requires_grad_()
    of_distillation = golden["distillation_token_logits"].clone().requires_grad_()
    labels = functional.cross_entropy(of_class, golden["labels"].long())
    value = 0.5 * labels + method.weight * term(method, of_distillation, golden["teacher_logits"])
    value.backward()
    assert_near(value, golden[key])
    for name, logits in (("student_logits", of_class), ("distillation_token_logits", of_distillation)):
        wanted = golden[f"{key}.grad.{name}"]
        assert_near(logits.grad, wanted)


def test_values_equal_loops_written_from_the_paper() -> None:
    generator = torch.Generator().manual_seed(3)
    ours, theirs = (torch.randn(4, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    hard = soft = 0.0
    for z, t in zip(ours.tolist(), theirs.tolist(), strict=True):
        hard -= math.log(math.exp(z[t.index(max(t))]) / sum(math.exp(x) for x in z)) / 4
        p, q = ([math.exp(x / 2) for x in row] for row in (t, z))
        soft += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True)) * 4 / 4
    assert float(hard_target_loss(ours, theirs)) == pytest.approx(hard, rel=1e-12)
    assert float(term(DistillationToken(kind="soft", temperature=2.0, form="paper"), ours, theirs)) == pytest.approx(
        soft, rel=1e-12
    )
    assert float(term(DistillationToken(kind="soft", temperature=2.0), ours, theirs)) == pytest.approx(soft / 5)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_gradient_of_the_token_is_right_in_double_precision_and_stops_at_the_teacher(kind: str) -> None:
    ours, theirs = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    method = DistillationToken(kind=kind)  # pyright: ignore[reportArgumentType]
    assert torch.autograd.gradcheck(lambda z: term(method, z, theirs.detach()), (ours,))
    term(method, ours, theirs).backward()
    assert theirs.grad is None


def test_labels_are_learned_by_the_class_head_and_the_teacher_by_the_other() -> None:
    network, images, labels = student(), *batch()
    distiller = Distiller(network, teacher(), [DistillationToken()], task_weight=0.5, example=TOKEN_EXAMPLE)
    out = distiller(images, labels)
    assert out.teacher_logits is not None
    of_class, of_distillation = two_heads(network, images)
    torch.testing.assert_close(out.terms["ce"].value, functional.cross_entropy(of_class, labels))
    wanted = functional.cross_entropy(of_distillation, out.teacher_logits.argmax(1))
    torch.testing.assert_close(out.terms["distillation-token"].value, wanted)
    torch.testing.assert_close(out.loss, 0.5 * out.terms["ce"].value + 0.5 * wanted)
    heads = (network.head.weight, network.head_dist.weight)
    by_labels = torch.autograd.grad(out.terms["ce"].value, heads, retain_graph=True, allow_unused=True)
    by_teacher = torch.autograd.grad(wanted, heads, allow_unused=True)
    assert (by_labels[1], by_teacher[0]) == (None, None)


def test_what_is_measured_is_the_mean_of_both_heads() -> None:
    network, images, labels = student(), *batch()
    distiller = Distiller(network, teacher(), [DistillationToken()], example=TOKEN_EXAMPLE)
    of_class, of_distillation = two_heads(network, images)
    torch.testing.assert_close(distiller(images, labels).student_logits, (of_class + of_distillation) / 2)
    assert distiller.deployed is network
    torch.testing.assert_close(distiller.predict(images), (of_class + of_distillation) / 2)


def test_mixed_labels_are_learned_too() -> None:
    images, labels = batch()
    mixed = 0.3 * functional.one_hot(labels, 6).float() + 0.7 / 6
    network = student()
    out = Distiller(network, teacher(), [DistillationToken()], example=TOKEN_EXAMPLE)(images, mixed)
    torch.testing.assert_close(out.terms["ce"].value, functional.cross_entropy(two_heads(network, images)[0], mixed))


def test_it_goes_with_attention_and_soft_targets() -> None:
    networks = student(), as_trained(timm.create_model("vit_tiny_patch16_224", **SIZES))
    methods = [DistillationToken(), AttentionDistillation(resample=True), AttentionTransfer(), SoftTargets()]
    distiller = Distiller(*networks, methods, example=TOKEN_EXAMPLE)
    out = distiller(*batch())
    assert set(out.terms) == {"ce", "distillation-token", "attention-distillation", "at", "kd"}
    distiller.backward(out)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in networks[0].parameters())


@pytest.mark.parametrize("name", ["pit_ti_distilled_224", "levit_128s", "efficientformer_l1"])
def test_other_distilled_networks_of_timm_have_two_heads_as_well(name: str) -> None:
    heads = describe(outline(lambda: timm.create_model(name, num_classes=3))).token_heads
    assert heads is not None
    assert [path.partition(".")[0] for path in heads] == ["head", "head_dist"]


@pytest.mark.parametrize("name", ["resnet8", "timm:crossvit_tiny_240", "timm:vit_tiny_patch16_224"])
def test_a_student_without_the_token_is_refused_with_a_way_out(name: str) -> None:
    description = describe(outline(lambda: build(name, 3)))
    with pytest.raises(ValueError, match=r"no head of a distillation token: take .*\(distillation_token=True\)"):
        DistillationToken().reads(Description(()), description)


def test_a_teacher_of_other_classes_or_none_is_refused() -> None:
    with pytest.raises(ValueError, match="the teacher has 4, the student 6"):
        Distiller(student(), teacher(4), [DistillationToken()], example=TOKEN_EXAMPLE)
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(student(), None, [DistillationToken()], example=TOKEN_EXAMPLE)


class OtherHead(DistillationToken):
    """Wants the labels learned by the other head."""

    def task_tap(self, reads: Reads) -> Tap:
        return reads.student.taps[1]


def test_two_methods_cannot_want_the_labels_learned_at_different_places() -> None:
    with pytest.raises(ValueError, match="two methods want the labels learned at head and head_dist"):
        Distiller(student(), teacher(), [DistillationToken(), OtherHead()], example=TOKEN_EXAMPLE)


def test_heads_of_which_the_logits_are_not_the_mean_are_refused() -> None:
    network = student()
    forward = network.forward_head
    network.forward_head = lambda x: 2 * forward(x)
    with pytest.raises(ValueError, match="not the mean of its two heads"):
        Distiller(network, teacher(), [DistillationToken()], example=TOKEN_EXAMPLE)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_of_the_token_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        DistillationToken(temperature=temperature)
