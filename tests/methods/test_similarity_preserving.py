"""Similarity-preserving distillation against the paper's equations."""

import pytest
import torch
from torch import Tensor, nn

from attention_transfer import Distiller, SimilarityPreserving, build
from attention_transfer.methods.similarity_preserving import similarity_distance

EXAMPLE = torch.empty(2, 3, 16, 16)


def slow_similarities(features: Tensor) -> list[list[float]]:
    """Eq. 1 and 2: inner products of flattened activations, each row of unit length."""
    rows = features.flatten(1).tolist()
    products = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
    return [[value / sum(v**2 for v in row) ** 0.5 for value in row] for row in products]


def test_the_value_is_the_papers_and_its_gradient_right() -> None:
    torch.manual_seed(0)
    student = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 5, 2, 2, dtype=torch.float64)
    ours, theirs = slow_similarities(student), slow_similarities(teacher)
    wanted = sum((ours[i][j] - theirs[i][j]) ** 2 for i in range(4) for j in range(4)) / 4**2
    assert similarity_distance(student, teacher).item() == pytest.approx(wanted, rel=1e-12)
    assert torch.autograd.gradcheck(lambda s: similarity_distance(s, teacher), student)


def test_the_last_stages_are_compared_unless_others_are_chosen(small_pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = (network.double().eval() for network in small_pair)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    first = [network.layer1(images) for network in (student, teacher)]
    last = [network.layer2(features) for network, features in zip((student, teacher), first, strict=True)]
    wanted = {
        SimilarityPreserving(): similarity_distance(*last),
        SimilarityPreserving(stages=(0, 1)): similarity_distance(*first) + similarity_distance(*last),
        SimilarityPreserving(student_layers=("layer1",), teacher_layers=("layer2",)): similarity_distance(
            first[0], last[1]
        ),
    }
    for method, value in wanted.items():
        distiller = Distiller(student, teacher, [method], task_weight=0, example=EXAMPLE.double()).eval()
        term = distiller(images).terms["sp"]
        assert term.weight == 3000
        torch.testing.assert_close(term.value, value)
        distiller.detach()


def test_what_cannot_be_compared_is_refused(small_pair: tuple[nn.Module, nn.Module]) -> None:
    distiller = Distiller(*small_pair, [SimilarityPreserving()], task_weight=0, example=EXAMPLE)
    with pytest.raises(ValueError, match=r"similarity-preserving distillation compares the images .* this one has 1"):
        distiller(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match="there is no stage 2"):
        Distiller(*small_pair, [SimilarityPreserving(stages=(2,))], example=EXAMPLE)
    with pytest.raises(ValueError, match="must pair up"):
        SimilarityPreserving(student_layers=("layer1",))
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(build("resnet8", 5), None, [SimilarityPreserving()], example=EXAMPLE)
