"""Probabilistic knowledge transfer against the paper's equations."""

from math import hypot, log
from typing import Literal

import pytest
import torch
from tests.closeness import assert_near
from torch import Tensor, nn

from attention_transfer import Correlation, Distiller, build
from attention_transfer.methods.correlation import neighbourhood_divergence

EXAMPLE = torch.empty(2, 3, 16, 16)
Form = Literal["code", "paper"]


def slow_probabilities(vectors: Tensor, *, own: bool) -> list[list[float]]:
    """Eq. 4 and 5 with the kernel of Eq. 7: how likely row i chooses image j."""
    rows = vectors.tolist()
    kernel = [
        [
            (sum(x * y for x, y in zip(a, b, strict=True)) / (hypot(*a) * hypot(*b)) + 1) / 2 if own or i != j else 0.0
            for j, b in enumerate(rows)
        ]
        for i, a in enumerate(rows)
    ]
    return [[value / sum(row) for value in row] for row in kernel]


@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_value_is_the_papers_and_its_gradient_right(form: Form) -> None:
    torch.manual_seed(0)
    student = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 4, dtype=torch.float64)
    ours, theirs = (slow_probabilities(vectors, own=form == "code") for vectors in (student, teacher))
    wanted = sum(
        p * log((p + 1e-7) / (q + 1e-7))
        for mine, row in zip(ours, theirs, strict=True)
        for q, p in zip(mine, row, strict=True)
    )
    value = neighbourhood_divergence(student, teacher, form)
    assert value.item() == pytest.approx(wanted / (25 if form == "code" else 1), rel=1e-9)
    assert torch.autograd.gradcheck(lambda s: neighbourhood_divergence(s, teacher, form), student)


def test_equal_neighbourhoods_cost_nothing_and_vectors_of_zeros_break_nothing() -> None:
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    rotated = vectors.flip(1) * 5
    assert_near(neighbourhood_divergence(rotated, vectors), 0.0, scale=1.0)
    student = torch.cat([torch.zeros(1, 3), vectors]).requires_grad_()
    value = neighbourhood_divergence(student, torch.cat([vectors, vectors[:1]]))
    (gradient,) = torch.autograd.grad(value, student)
    assert value > 0
    assert gradient.isfinite().all()


def test_what_the_heads_take_is_compared_unless_layers_are_named(small_pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = (network.double().eval() for network in small_pair)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    first = [network.layer1(images) for network in (student, teacher)]
    last = [network.layer2(features) for network, features in zip((student, teacher), first, strict=True)]
    for method, features in (
        (Correlation(), last),
        (Correlation(student_layer="layer1", teacher_layer="layer1", form="paper"), first),
    ):
        distiller = Distiller(student, teacher, [method], task_weight=0, example=EXAMPLE.double()).eval()
        term = distiller(images).terms["pkt"]
        ours, theirs = (values.mean((2, 3)) for values in features)
        assert term.weight == 30000
        torch.testing.assert_close(term.value, neighbourhood_divergence(ours, theirs, method.form))
        distiller.detach()


def test_one_image_and_no_teacher_are_refused(small_pair: tuple[nn.Module, nn.Module]) -> None:
    distiller = Distiller(*small_pair, [Correlation()], task_weight=0, example=EXAMPLE)
    with pytest.raises(ValueError, match=r"probabilistic knowledge transfer compares the images .* this one has 1"):
        distiller(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(build("resnet8", 5), None, [Correlation()], example=EXAMPLE)
