"""Relational and probabilistic distillation against their papers' equations and the authors' code."""

from itertools import product
from math import dist, hypot, log
from typing import Literal

import pytest
import timm
import torch
from tests.closeness import assert_near
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import Correlation, Distiller, Relational, build
from attention_transfer.methods import relational
from attention_transfer.methods.correlation import neighbourhood_divergence
from attention_transfer.methods.relational import angle_loss, distance_loss

EXAMPLE = torch.empty(2, 3, 16, 16)
Form = Literal["code", "paper"]


def huber(a: float, b: float) -> float:
    difference = abs(a - b)
    return 0.5 * difference**2 if difference < 1 else difference - 0.5


def slow_distances(vectors: list[list[float]]) -> list[list[float]]:
    """Eq. 4 and 5."""
    found = [[dist(a, b) for b in vectors] for a in vectors]
    pairs = [d for i, row in enumerate(found) for j, d in enumerate(row) if i != j]
    mean = sum(pairs) / len(pairs)
    return [[d / mean for d in row] for row in found]


def slow_cosine(a: list[float], vertex: list[float], b: list[float]) -> float:
    """Eq. 7, 0 where two of the three are one image."""
    first, second = ([x - y for x, y in zip(end, vertex, strict=True)] for end in (a, b))
    norms = dist(a, vertex) * dist(b, vertex)
    return sum(x * y for x, y in zip(first, second, strict=True)) / norms if norms else 0.0


def vectors(count: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    student = 2 * torch.randn(count, 3, dtype=torch.float64) + 1
    return student.requires_grad_(), 3 * torch.randn(count, 4, dtype=torch.float64)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_both_losses_are_the_papers(form: Form) -> None:
    student, teacher = vectors()
    ours, theirs = student.tolist(), teacher.tolist()
    mine, wanted = slow_distances(ours), slow_distances(theirs)
    distances = sum(huber(mine[i][j], wanted[i][j]) for i, j in product(range(5), repeat=2))
    angles = sum(
        huber(slow_cosine(ours[i], ours[j], ours[k]), slow_cosine(theirs[i], theirs[j], theirs[k]))
        for i, j, k in product(range(5), repeat=3)
    )
    counts = (25, 125) if form == "code" else (1, 1)
    assert distance_loss(student, teacher, form).item() == pytest.approx(distances / counts[0], rel=1e-12)
    assert angle_loss(student, teacher, form).item() == pytest.approx(angles / counts[1], rel=1e-12)


def test_gradients_are_right() -> None:
    student, teacher = vectors()
    assert torch.autograd.gradcheck(lambda s: distance_loss(s, teacher), student)
    assert torch.autograd.gradcheck(lambda s: angle_loss(s, teacher), student)


def test_value_and_gradient_are_those_of_the_authors_code(golden: dict[str, Tensor]) -> None:
    student = golden["student_embedding"].clone().requires_grad_()
    teacher = golden["teacher_embedding"]
    value = 25 * distance_loss(student, teacher) + 50 * angle_loss(student, teacher)
    value.backward()
    assert_near(value, golden["rkd_25_50"])
    assert_near(student.grad, golden["rkd_25_50.grad.student_embedding"])


def test_large_batches_are_taken_a_few_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = vectors(7)
    whole = angle_loss(student, teacher)
    (wanted,) = torch.autograd.grad(whole, student)
    sizes: list[int] = []
    some = relational._angle_sum
    monkeypatch.setattr(relational, "_KEPT_AT_ONCE", 3 * 7 * 7)
    monkeypatch.setattr(relational, "_angle_sum", lambda *args: (sizes.append(len(args[0])), some(*args))[1])
    value = angle_loss(student, teacher)
    assert sizes == [3, 3, 1]
    torch.testing.assert_close(value, whole)
    (gradient,) = torch.autograd.grad(value, student)
    assert len(sizes) == 6
    torch.testing.assert_close(gradient, wanted)


def test_images_with_one_vector_have_finite_gradients() -> None:
    student = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]], requires_grad=True)
    teacher = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    value = distance_loss(student, teacher) + angle_loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_two_images_have_nothing_to_compare_and_one_is_refused(small_pair: tuple[nn.Module, nn.Module]) -> None:
    distiller = Distiller(*small_pair, [Relational()], task_weight=0, example=EXAMPLE)
    assert_near(distiller(torch.randn(2, 3, 16, 16)).loss, 0.0, scale=1.0)
    assert distiller(torch.randn(3, 3, 16, 16)).loss.item() > 1e-4
    with pytest.raises(ValueError, match=r"relational distillation compares the images .* this one has 1"):
        distiller(torch.randn(1, 3, 16, 16))


def test_what_the_heads_take_is_compared(small_pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = (network.double().eval() for network in small_pair)
    distiller = Distiller(student, teacher, [Relational()], task_weight=0, example=EXAMPLE.double()).eval()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    terms = distiller(images).terms
    ours, theirs = (network.layer2(network.layer1(images)).mean((2, 3)) for network in (student, teacher))
    assert {name: term.weight for name, term in terms.items()} == {"rkd-distance": 25, "rkd-angle": 50}
    torch.testing.assert_close(terms["rkd-distance"].value, distance_loss(ours, theirs))
    torch.testing.assert_close(terms["rkd-angle"].value, angle_loss(ours, theirs))


def test_any_two_networks_can_be_compared_and_layers_may_be_named() -> None:
    torch.manual_seed(0)
    student = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=2, num_classes=5)
    teacher = as_trained(build("resnet8", 5))
    for method in (Relational(angle_weight=0), Relational(student_layer="blocks.0", teacher_layer="layer1")):
        student.zero_grad()
        distiller = Distiller(student, teacher, [method], task_weight=0, example=EXAMPLE)
        distiller(torch.randn(4, 3, 16, 16)).loss.backward()
        distiller.detach()
        assert (student.blocks[1].mlp.fc1.weight.grad is None) == (method.student_layer is not None)


def test_settings_that_compare_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="both 0"):
        Relational(distance_weight=0, angle_weight=0)
    with pytest.raises(ValueError, match="angle_weight must be"):
        Relational(angle_weight=-1)
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(build("resnet8", 5), None, [Relational()], example=EXAMPLE)


# ---------------- probabilistic knowledge transfer against the paper's equations


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
