"""A teacher keeps a precision of its own beside a student of another."""

import copy

import pytest
import torch
from tests.conftest import SmallNet
from torch import Tensor, nn

from attention_transfer import AttentionTransfer, ClassAttention, Distiller, GradientAttention, Method, SoftTargets
from attention_transfer.methods import Overhaul, Relational

EXAMPLE = torch.empty(2, 3, 16, 16)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(4)
TOLERANCES = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float64: 1e-4}


def pair(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return SmallNet(4), SmallNet(6).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    "method",
    [SoftTargets(), AttentionTransfer(), ClassAttention(), GradientAttention(), Overhaul(), Relational()],
    ids=lambda method: method.key,
)
def test_losses_are_float32_and_nearly_those_of_equal_precision(method: Method, dtype: torch.dtype) -> None:
    try:
        wanted = Distiller(*pair(torch.float32), [method], example=EXAMPLE)(IMAGES, LABELS)
    except ValueError as error:
        pytest.skip(str(error))
    student, teacher = pair(dtype)
    out = Distiller(student, teacher, [method], example=EXAMPLE)(IMAGES, LABELS)
    assert out.loss.dtype == torch.float32
    assert out.teacher_logits is None or out.teacher_logits.dtype == torch.float32
    assert all(p.dtype == dtype for p in teacher.parameters())
    torch.testing.assert_close(out.loss, wanted.loss, rtol=TOLERANCES[dtype], atol=0.0)
    out.loss.backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in student.parameters())


def test_its_precision_is_its_own_under_autocast_too() -> None:
    student, teacher = pair(torch.float64)
    wanted = copy.deepcopy(teacher).eval()(IMAGES.double()).float()
    distiller = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE)
    with torch.autocast("cpu", torch.bfloat16):
        found = distiller(IMAGES, LABELS).teacher_logits
    torch.testing.assert_close(found, wanted)


def test_a_student_of_half_precision_learns_from_a_teacher_of_float32() -> None:
    student, teacher = pair(torch.float32)
    distiller = Distiller(student.bfloat16(), teacher, [SoftTargets()], example=EXAMPLE.bfloat16())
    out = distiller(IMAGES.bfloat16(), LABELS)
    assert out.loss.dtype == torch.float32
    torch.testing.assert_close(out.teacher_logits, teacher(IMAGES.bfloat16().float()))


class Mixed(SmallNet):
    """A head of another precision, that casts for itself."""

    def __init__(self) -> None:
        super().__init__(6)
        self.layer1.bfloat16()
        self.layer2.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)).float())


def test_a_teacher_of_several_precisions_is_given_that_of_its_entry() -> None:
    teacher = Mixed()
    wanted = copy.deepcopy(teacher).eval()(IMAGES.bfloat16())
    distiller = Distiller(pair(torch.float32)[0], teacher, [SoftTargets(), AttentionTransfer()], example=EXAMPLE)
    out = distiller(IMAGES, LABELS)
    torch.testing.assert_close(out.teacher_logits, wanted, rtol=0.02, atol=0.02)
    assert out.loss.dtype == torch.float32


def test_both_go_where_the_distiller_goes() -> None:
    student, teacher = pair(torch.float64)
    distiller = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE).to(torch.bfloat16)
    assert {p.dtype for p in (*student.parameters(), *teacher.parameters())} == {torch.bfloat16}
    assert torch.isfinite(distiller(IMAGES.bfloat16(), LABELS).loss)
