"""Running means, the guard of an accelerator (tried on the CPU), and scores."""

import pytest
import torch

from attention_transfer import Term
from attention_transfer.distiller import Output
from attention_transfer.training.metrics import FiniteGuard, NonFiniteLossError, RunningMeans, check_scores, scores


def output(value: float, count: int = 2) -> Output:
    logits = torch.tensor([[2.0, 0.0, 1.0]] * count)
    term = Term(torch.tensor(value), 10.0)
    return Output({"at": term}, logits)


def test_means_weigh_steps_by_their_images() -> None:
    means = RunningMeans()
    means.add(output(1.0, count=2), torch.tensor([0, 1]))
    means.add(output(4.0, count=1), torch.tensor([0]))
    row = means.row()
    assert row["terms"]["at"] == pytest.approx({"raw": 2.0, "weight": 10.0, "weighted": 20.0})
    assert row["train"]["top1"] == pytest.approx(200 / 3)


def test_means_survive_a_checkpoint() -> None:
    means, again = RunningMeans(), RunningMeans()
    means.add(output(1.0), torch.tensor([0, 1]))
    again.load(means.state(), torch.device("cpu"))
    assert again.row() == means.row()


def test_on_an_accelerator_a_bad_step_moves_nothing_and_is_named_later() -> None:
    guard = FiniteGuard(torch.device("cuda"), interval=3)
    gradients = [torch.ones(2), torch.ones(3)]
    guard.check(0, 7, output(1.0), gradients)
    assert all(gradient.eq(1).all() for gradient in gradients)
    guard.check(0, 8, output(float("nan")), gradients)
    assert all(gradient.eq(0).all() for gradient in gradients)
    with pytest.raises(NonFiniteLossError, match="not finite: at in epoch 1, step 8"):
        guard.check(0, 9, output(1.0), gradients)


def test_a_gradient_that_is_not_finite_is_caught_though_the_loss_is() -> None:
    guard = FiniteGuard(torch.device("cuda"))
    gradients = [torch.ones(2), torch.tensor([1.0, float("inf")])]
    guard.check(1, 0, output(1.0), gradients)
    assert all(gradient.eq(0).all() for gradient in gradients)
    with pytest.raises(NonFiniteLossError, match="not finite: gradient in epoch 2, step 0"):
        guard.read()


def test_the_term_that_took_over_is_the_one_to_lower() -> None:
    guard = FiniteGuard(torch.device("cpu"))
    with pytest.raises(NonFiniteLossError, match=r"diverged.*at 1e\+31, gradient inf.*or the weight of at, or use"):
        guard.check(0, 0, output(1e30), [torch.tensor([float("inf")])])


def test_a_student_whose_measured_loss_is_not_finite_has_diverged() -> None:
    check_scores(0, {"test": {"loss": 2.3}, "neighbours": {"top1": 10.0}})
    with pytest.raises(NonFiniteLossError, match=r"diverged in epoch 3: .*\(test nan\).*lower --learning-rate"):
        check_scores(2, {"test": {"loss": float("nan")}})


def test_scores_against_a_loop() -> None:
    logits = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 8
    loss, top1, top5 = scores(logits, labels)
    first = fifth = 0
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        order = sorted(range(8), key=lambda k: -float(row[k]))
        first += order[0] == label
        fifth += int(label) in order[:5]
        total -= float(row[label] - row.logsumexp(0))
    assert (int(top1), int(top5)) == (first, fifth)
    assert float(loss) == pytest.approx(total, rel=1e-6)


def test_top_five_of_fewer_classes_is_everything() -> None:
    assert int(scores(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))[2]) == 4
