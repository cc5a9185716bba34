"""Soft targets against the authors' values, a slow loop, and their refusals."""

import math

import pytest
import torch
from tests.closeness import assert_near
from torch import Tensor

from attention_transfer.errors import InputError
from attention_transfer.methods import Contrastive, DecoupledSoftTargets, DistillationToken, Method, SoftTargets
from attention_transfer.methods.soft_targets import soft_target_divergence
from attention_transfer.models.introspection.description import Description


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
