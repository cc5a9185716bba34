"""Running means, the guard of an accelerator (tried on the CPU), and scores."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console
from tests.closeness import assert_near
from tests.training.conftest import Make
from tests.training.test_fit import rows, silent
from torch import nn

from attention_transfer import Data, Experiment, FitNet, SoftTargets, Term, Training
from attention_transfer.distiller import Output
from attention_transfer.runs import RunFolder
from attention_transfer.training.averaging import WeightAverage
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.metrics import FiniteGuard, NonFiniteLossError, RunningMeans, check_scores, scores
from attention_transfer.training.prepare import load_data, prepare
from attention_transfer.training.progress import Reporter


def output(value: float, count: int = 2) -> Output:
    logits = torch.tensor([[2.0, 0.0, 1.0]] * count)
    term = Term(torch.tensor(value), 10.0)
    return Output({"at": term}, logits)


def test_means_weigh_steps_by_their_images() -> None:
    means = RunningMeans()
    means.add(output(1.0, count=2), torch.tensor([0, 1]), 2)
    means.add(output(4.0, count=1), torch.tensor([0]), 1)
    row = means.row()
    assert row["terms"]["at"] == pytest.approx({"raw": 2.0, "weight": 10.0, "weighted": 20.0})
    assert row["train"]["top1"] == pytest.approx(200 / 3)


def test_means_survive_a_checkpoint() -> None:
    means, again = RunningMeans(), RunningMeans()
    means.add(output(1.0), torch.tensor([0, 1]), 2)
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


def test_what_is_unusual_about_a_distillation_is_a_note(make: Make) -> None:
    notes = prepare(make(student="resnet14", teacher="resnet8")).notes
    assert sum("the student is larger than its teacher" in note for note in notes) == 1
    assert not any("is larger than its teacher" in note for note in prepare(make()).notes)


def test_two_stages_train_to_the_end(tmp_path: Path, images: Path) -> None:
    experiment = Experiment(
        "test",
        "resnet8",
        "resnet14",
        methods=(FitNet(hint_epochs=1, hint_learning_rate=0.01), SoftTargets()),
        untrained_teacher=True,
        data=Data(f"npz:{images}"),
        training=Training(epochs=1, batch_size=8, threads=1, device="cpu"),
    )
    fit_experiment(experiment, tmp_path / "run", Reporter(silent=True))
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert [row["phase"] for row in rows] == ["hint", "task"]
    assert rows[0]["learning_rate"] == 0.01


ROW = {
    "epoch": 2,
    "learning_rate": 0.05,
    "terms": {"at": {"raw": 0.0025, "weight": 1000.0, "weighted": 2.5}},
    "train": {"loss": 1.0, "top1": 50.0},
    "test": {"loss": 1.0, "top1": 40.0},
    "seconds": 3.0,
}


def shown(terminal: bool) -> str:
    text = io.StringIO()
    reporter = Reporter(Console(file=text, force_terminal=terminal, width=120, highlight=False), prefix="run: ")
    assert list(reporter.steps(range(5), 5, 0, "epoch 2/3")) == [0, 1, 2, 3, 4]
    reporter.epoch(ROW, 3)
    return text.getvalue()


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    assert "5/5" in shown(terminal=True)
    assert "\x1b[" in shown(terminal=True)


def test_a_file_gets_one_plain_line_per_epoch() -> None:
    text = shown(terminal=False)
    assert text == "run: epoch 2/3  lr 0.05  at 0.0025×1000  train 50.00 %  test 40.00 %  3 s\n"


def test_a_silent_reporter_says_nothing() -> None:
    text = io.StringIO()
    reporter = Reporter(Console(file=text), silent=True)
    assert list(reporter.steps(range(2), 2, 0, "epoch")) == [0, 1]
    reporter.line("hello")
    assert text.getvalue() == ""


class Network(nn.Module):
    """Parameters, running statistics, a counter, and weights under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tied(self.norm(self.first(x)))


def test_the_average_is_the_formulas_and_counters_are_copied():
    torch.manual_seed(0)
    network = Network()
    average = WeightAverage(network, 0.9)
    expected = {name: value.double().clone() for name, value in network.state_dict().items()}
    for _ in range(20):
        network(torch.randn(8, 4))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update()
        for name, value in network.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value if value.is_floating_point() else value.double()
    for name, value in average.state().items():
        assert_near(value, expected[name], msg=name)
    assert average.state()["norm.num_batches_tracked"] == 20


def test_the_network_gets_its_own_weights_back_to_the_last_bit():
    network = Network()
    average = WeightAverage(network, 0.9)
    with torch.no_grad():
        network.first.weight.add_(1)
    own = {name: value.clone() for name, value in network.state_dict().items()}
    kept = {name: value.clone() for name, value in average.state().items()}

    def look() -> None:
        with average.in_place():
            assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            look()
        assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
        assert all(torch.equal(value, kept[name]) for name, value in average.state().items())


def test_a_run_keeps_the_average_of_the_weights_that_its_steps_left(make: Make, tmp_path: Path) -> None:
    """One step an epoch, so that snapshots of a run without an average show every step."""
    plain = make(teacher=None, methods=(), training={"epochs": 3, "batch_size": 48, "snapshot_epochs": (0, 1, 2, 3)})
    averaged = replace(plain, training=replace(plain.training, ema_decay=0.75))
    fit_experiment(plain, tmp_path / "plain", silent())
    fit_experiment(averaged, tmp_path / "averaged", silent())

    def weights(run: str, epoch: int) -> dict[str, torch.Tensor]:
        return safetensors.torch.load_file(RunFolder(tmp_path / run).snapshots[epoch] / "student.safetensors")

    expected = weights("plain", 0)
    for epoch in (1, 2, 3):
        step = weights("plain", epoch)
        expected = {
            name: 0.75 * value + 0.25 * step[name] if value.is_floating_point() else step[name]
            for name, value in expected.items()
        }
        found = weights("averaged", epoch)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert_near(value, expected[name], msg=name)
    saved = safetensors.torch.load_file(tmp_path / "averaged" / "student.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in weights("averaged", 3).items())
    assert json.loads((tmp_path / "averaged" / "student.json").read_text())["ema_decay"] == 0.75
    assert "ema_decay" not in json.loads((tmp_path / "plain" / "student.json").read_text())


def test_what_is_measured_is_what_is_kept_and_the_trained_student_stands_beside_it(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from attention_transfer.analysis.measure import measure

    plain = make(teacher=None, methods=(), training={"epochs": 4})
    averaged = replace(plain, training=replace(plain.training, ema_decay=0.9))
    fit_experiment(plain, tmp_path / "plain", silent())
    fit_experiment(averaged, tmp_path / "averaged")
    assert "unaveraged test" in capsys.readouterr().out
    theirs = {row["epoch"]: row["test"] for row in rows(tmp_path / "plain")}
    for row in rows(tmp_path / "averaged"):
        assert row["unaveraged"] == {"test": theirs[row["epoch"]]}
        assert row["test"]["loss"] != theirs[row["epoch"]]["loss"]
    summary, before = RunFolder(tmp_path / "averaged").summary, RunFolder(tmp_path / "plain").summary
    assert summary is not None
    assert before is not None
    assert summary["student_unaveraged"] == before["student"]
    score, _ = measure(str(tmp_path / "averaged"), plain.data, "test", plain.training)
    assert score.loss == pytest.approx(summary["student"]["test"]["loss"], rel=1e-5)
    assert len(load_data(plain.data, 0).test) == score.count


@pytest.mark.parametrize(("decay", "said"), [(0.9999, True), (0.5, False)])
def test_an_average_that_is_too_long_for_the_run_is_said_to_be(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], decay: float, said: bool
) -> None:
    fit_experiment(make(teacher=None, methods=(), training={"epochs": 3, "ema_decay": decay}), tmp_path / "run")
    assert ("still consists of the initial student to 100%" in capsys.readouterr().out) == said
