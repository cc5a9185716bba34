"""Attention heads, estimator and graphs, against slow loops, the authors' values, and one another."""

import math

import pytest
import torch
from tests.closeness import assert_near
from torch import Tensor

from attention_transfer.methods.multi_head_graph.graphs import (
    control_scores,
    graph_divergence,
    similarity_scores,
    squashed_graph,
)
from attention_transfer.methods.multi_head_graph.heads import GraphHeads, kept_heads


def authors_heads(golden: dict[str, Tensor], number: int) -> GraphHeads:
    """Heads with the weights of the authors' graph; their layers are (inputs, outputs)."""

    def value(name: str) -> Tensor:
        return golden[f"mhgd.MHA{number}.{name}"].clone()

    front, back = value("Attention.Rfc.weights").shape[0], value("Attention.Sfc.weights").shape[0]
    heads = GraphHeads(front, back, 8)
    state: dict[str, Tensor] = {
        "estimate.weight": value("Estimator.fc1.weights").T,
        "estimate.bias": value("Estimator.fc1.biases"),
    }
    for ours, layer, norm in (
        ("query", "Attention.Sfc", "Attention.Sbn"),
        ("key", "Attention.Rfc", "Attention.Rbn"),
        ("values", "Estimator.fc0", "Estimator.bn0"),
    ):
        state |= {
            f"{ours}.linear.weight": value(f"{layer}.weights").T,
            f"{ours}.norm.weight": value(f"{norm}.gamma"),
            f"{ours}.norm.bias": value(f"{norm}.beta"),
            f"{ours}.norm.running_mean": value(f"{norm}.moving_mean"),
            f"{ours}.norm.running_var": value(f"{norm}.moving_variance"),
            f"{ours}.norm.num_batches_tracked": torch.tensor(0),
        }
    heads.load_state_dict(state)
    return heads


def test_the_heads_loss_is_that_of_the_authors(golden: dict[str, Tensor]) -> None:
    vectors = [golden[f"mhgd.teacher_vector{i}"] for i in range(3)]
    losses = [authors_heads(golden, i + 1).loss(vectors[i], vectors[i + 1], drop=False) for i in range(2)]
    assert_near(torch.stack(losses).sum(), golden["mhgd.mhan_loss"])


def test_the_transfer_loss_is_that_of_the_authors(golden: dict[str, Tensor]) -> None:
    found: list[Tensor] = []
    for i in range(2):
        heads = authors_heads(golden, i + 1)
        graphs = [
            squashed_graph(heads.scores(*(golden[f"mhgd.{role}_vector{k}"] for k in (i, i + 1)), frozen=True))
            for role in ("student", "teacher")
        ]
        found.append(graph_divergence(*graphs))
    torch.testing.assert_close(torch.stack(found).sum(), golden["mhgd.transfer_loss"], rtol=1e-4, atol=0)


@pytest.fixture
def heads() -> GraphHeads:
    torch.manual_seed(0)
    heads = GraphHeads(4, 7, 3).double()
    for layer in (heads.query, heads.key, heads.values):
        torch.nn.init.normal_(layer.norm.weight)
        torch.nn.init.normal_(layer.norm.bias)
        layer.norm.running_mean.normal_()
        layer.norm.running_var.uniform_(0.5, 2)
    return heads


def vectors(*widths: int, images: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.nn.functional.normalize(torch.randn(images, w, generator=generator, dtype=torch.float64)) for w in widths
    ]


@torch.no_grad()
def test_scores_and_estimate_are_those_of_the_paper_entry_by_entry(heads: GraphHeads) -> None:
    front, back = vectors(4, 7)
    width, count = 5, 3

    def normalised(layer: torch.nn.Module, x: Tensor) -> list[list[float]]:
        rows = []
        norm = layer.norm
        for image in x:
            row = []
            for o in range(len(norm.weight)):
                mapped = sum(float(layer.linear.weight[o, k]) * float(image[k]) for k in range(len(image)))
                centred = (mapped - float(norm.running_mean[o])) / math.sqrt(float(norm.running_var[o]) + 1e-5)
                row.append(centred * float(norm.weight[o]) + float(norm.bias[o]))
            rows.append(row)
        return rows

    heads.eval()
    queries, keys, values = (
        normalised(layer, x) for layer, x in ((heads.query, back), (heads.key, front), (heads.values, front))
    )
    scores = torch.zeros(count, 5, 5, dtype=torch.float64)
    for a in range(count):
        for i in range(5):
            for j in range(5):
                scores[a, i, j] = sum(queries[i][d * count + a] * keys[j][d * count + a] for d in range(width))
    torch.testing.assert_close(heads.scores(front, back), scores)
    torch.testing.assert_close(heads.scores(front, back, frozen=True), scores)
    told = []
    for i in range(5):
        gathered: list[float] = []
        for a in range(count):
            total = sum(math.exp(scores[a, i, j]) for j in range(5))
            for d in range(width):
                shares = [math.exp(scores[a, i, j]) / total * max(values[j][d], 0) for j in range(5)]
                gathered.append(sum(shares))
        y = heads.estimate.weight @ torch.tensor(gathered, dtype=torch.float64) + heads.estimate.bias
        told.append(y / y.norm())
    torch.testing.assert_close(heads.estimated(front, scores, drop=False), torch.stack(told))
    wanted = sum(1 - float(told[i] @ back[i]) for i in range(5)) / 5
    assert float(heads.loss(front, back, drop=False)) == pytest.approx(wanted)


@pytest.mark.parametrize("direction", ["student-first", "teacher-first"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_divergence_is_that_of_the_paper_entry_by_entry(direction: str, reduction: str) -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = (3 * torch.randn(2, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))

    def row(scores: Tensor) -> list[float]:
        exponents = [math.exp(math.tanh(float(s))) for s in scores]
        return [e / sum(exponents) for e in exponents]

    total = 0.0
    for a in range(2):
        for i in range(4):
            ours, theirs = row(student[a, i]), row(teacher[a, i])
            first, second = (ours, theirs) if direction == "student-first" else (theirs, ours)
            total += sum(p * (math.log(p) - math.log(q)) for p, q in zip(first, second, strict=True))
    found = graph_divergence(squashed_graph(student), squashed_graph(teacher), direction, reduction)
    assert float(found) == pytest.approx(total if reduction == "sum" else total / 8)


def test_frozen_heads_move_nothing_of_theirs_and_pass_the_gradient_on(heads: GraphHeads) -> None:
    before = {name: value.clone() for name, value in heads.state_dict().items()}
    front, back = (v.requires_grad_() for v in vectors(4, 7))
    assert heads.training
    heads.scores(front, back, frozen=True).square().sum().backward()
    assert all(p.grad is None for p in heads.parameters())
    assert front.grad is not None
    assert back.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in heads.state_dict().items())

    def scores(x: Tensor, y: Tensor) -> Tensor:
        return squashed_graph(heads.scores(x, y, frozen=True))

    assert torch.autograd.gradcheck(scores, (front, back))


def test_scaled_scores_are_smaller_by_the_root_of_the_channels_of_a_head() -> None:
    plain, scaled = GraphHeads(4, 8, 3), GraphHeads(4, 8, 3, scaled=True)
    scaled.load_state_dict(plain.state_dict())
    front, back = (v.float() for v in vectors(4, 8))
    torch.testing.assert_close(scaled.scores(front, back), plain.scores(front, back) / math.sqrt(6))


def test_heads_are_dropped_by_their_draw_and_never_the_only_one() -> None:
    torch.manual_seed(0)
    kept = kept_heads(8, 1000, torch.zeros(()))
    torch.manual_seed(0)
    draws = torch.randn(8, 1000, 1)
    assert torch.equal(kept, (draws > draws.mean(0)).float())
    assert kept.sum(0).min() >= 1
    assert kept.sum(0).max() <= 7
    assert kept.mean() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(kept_heads(1, 5, torch.zeros(())), torch.ones(1, 5, 1))


def test_a_dropped_head_adds_nothing_and_the_others_are_not_enlarged(
    heads: GraphHeads, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, back = vectors(4, 7)
    scores = heads.eval().scores(front, back)
    kept = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)[:, None, None].expand(3, 5, 1)
    monkeypatch.setattr("attention_transfer.methods.multi_head_graph.heads.kept_heads", lambda *args: kept)
    found = heads.estimated(front, scores, drop=True)
    silenced = heads.estimate.weight.detach().clone()
    silenced[:, 5:10] = 0
    heads.estimate.weight.data = silenced
    torch.testing.assert_close(found, heads.estimated(front, scores, drop=False))


def test_controls_know_nothing_of_the_images() -> None:
    like = torch.randn(3, 4, 4)
    constant, identity = (squashed_graph(control_scores(kind, like)).exp() for kind in ("constant", "identity"))
    torch.testing.assert_close(constant, torch.full((3, 4, 4), 0.25))
    e = math.e
    torch.testing.assert_close(identity[:, range(4), range(4)], torch.full((3, 4), e / (e + 3 / e)))
    torch.testing.assert_close(identity.sum(2), torch.ones(3, 4))
    first, second = control_scores("random", like), control_scores("random", like)
    assert first.shape == like.shape
    assert not torch.equal(first, second)


def test_plain_similarity_is_the_inner_product_once_for_every_head() -> None:
    (values,) = vectors(6)
    found = similarity_scores(values, 3)
    for a in range(3):
        for i in range(5):
            for j in range(5):
                assert float(found[a, i, j]) == pytest.approx(float((values[i] * values[j]).sum()))
