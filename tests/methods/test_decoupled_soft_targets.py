"""Decoupled soft targets against the paper's equations and the authors' code."""

from dataclasses import replace
from math import exp, log

import pytest
import torch
from tests.closeness import assert_near
from tests.conftest import SmallNet
from torch import Tensor, nn

from attention_transfer import DecoupledSoftTargets, Distiller, Schedule, SoftTargets
from attention_transfer.methods.decoupled_soft_targets import decoupled_divergences

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
