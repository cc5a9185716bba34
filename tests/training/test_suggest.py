"""Sizes of terms and the weights that they suggest."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from tests.training.conftest import Make, images, make
from torch import nn
from torch.nn import functional

from attention_transfer import AttentionTransfer, SoftTargets
from attention_transfer.analysis.term_sizes import measurable, term_sizes, train_for
from attention_transfer.analysis.weight_suggestion import suggest_weights
from attention_transfer.batch import Batch
from attention_transfer.cli import main
from attention_transfer.commands.suggest_weight import to_text
from attention_transfer.methods import METHODS, Method, Observed, Reads, Schedule, Term
from attention_transfer.models import Description
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import Prepared, prepare
from attention_transfer.training.progress import Reporter

__all__ = ["images", "make"]

SILENT = Reporter(silent=True)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where throw-away folders go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@dataclass(frozen=True)
class Twins(Method):
    """Two terms of known size: 2 × the squared logits, and nothing at all."""

    key: ClassVar[str] = "twins"

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        return Reads()

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        assert student.logits is not None
        return {
            "twins/squares": Term(student.logits.square().mean(), 2.0),
            "twins/nothing": Term(0 * student.logits.sum()),
        }


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> type[Twins]:
    monkeypatch.setitem(METHODS, "twins", Twins)
    return Twins


def state(prepared: Prepared) -> dict[str, torch.Tensor]:
    return prepared.distiller.student.state_dict()


def test_sizes_are_means_over_the_first_batches_with_weights_of_one(make: Make, twins: type[Twins]) -> None:
    experiment = make(methods=(twins(weight=7.0),), teacher=None)
    sizes = term_sizes(prepare(measurable(experiment)), 0, 0, 2)
    prepared = prepare(experiment)
    student, batches = prepared.distiller.student.train(), list(prepared.train.epoch(0))[:2]
    squares, entropies, norms = list[float](), list[float](), list[float]()
    for batch in batches:
        logits = student(batch.image)
        student.zero_grad()
        square = 2 * logits.square().mean()
        square.backward(retain_graph=True)
        squares.append(square.item())
        entropies.append(functional.cross_entropy(logits, batch.label).item())
        norms.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]).norm().item())
    assert sizes["twins/squares"].value == pytest.approx(sum(squares) / 2, rel=1e-5)
    assert sizes["twins/squares"].gradient_norm == pytest.approx(sum(norms) / 2, rel=1e-4)
    assert sizes["ce"].value == pytest.approx(sum(entropies) / 2, rel=1e-5)
    assert sizes["twins/nothing"].value == 0


def test_a_whole_training_ends_with_the_student_of_train(make: Make, tmp_path: Path, scratch: Path) -> None:
    experiment = make()
    fit_experiment(experiment, tmp_path / "run", SILENT)
    prepared = prepare(measurable(experiment))
    train_for(experiment, prepared, 6, prepared.train.num_batches, SILENT)
    trained = safetensors.torch.load_file(tmp_path / "run" / "student.safetensors")
    assert all(torch.equal(trained[name], value) for name, value in state(prepared).items())
    assert not list(scratch.iterdir())


def test_part_of_an_epoch_is_so_many_steps_with_the_configured_weights(make: Make) -> None:
    plain = {"learning_rate": 0.1, "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}
    experiment = make(methods=(AttentionTransfer(weight=50.0),), optimisation=plain)
    prepared, reference = prepare(measurable(experiment)), prepare(experiment)
    train_for(experiment, prepared, 4, prepared.train.num_batches, SILENT)
    reference.distiller.train()
    for epoch, count in ((0, 3), (1, 1)):
        for batch in list(reference.train.epoch(epoch))[:count]:
            reference.distiller.zero_grad()
            reference.distiller(batch.image, batch.label).loss.backward()
            with torch.no_grad():
                for parameter in reference.distiller.student.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
    expected = state(reference)
    for name, value in state(prepared).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


def test_the_range_keeps_weight_times_value_between_1_and_50(make: Make) -> None:
    guide = suggest_weights(make(), batches=2, after_epochs=1.0, reporter=SILENT)
    assert (guide.steps, guide.epochs, guide.batches) == (3, 1.0, 2)
    assert [term.flag for term in guide.terms] == ["at.weight", "kd.weight"]
    for term in guide.terms:
        assert term.lowest is not None
        assert term.highest is not None
        assert term.suggested is not None
        assert term.balanced is not None
        assert term.start != term.after
        assert term.lowest * term.after.value == pytest.approx(1)
        assert term.highest * term.after.value == pytest.approx(50)
        assert term.suggested * term.after.value == pytest.approx(50**guide.place, rel=0.06)
        assert term.balanced * term.after.gradient_norm == pytest.approx(guide.task_after.gradient_norm)


def test_stronger_teachers_get_larger_weights_within_the_range(make: Make) -> None:
    def place(**fields: object) -> float:
        guide = suggest_weights(make(methods=(SoftTargets(),), **fields), batches=1, after_epochs=0, reporter=SILENT)
        assert guide.parameter_ratio is not None
        return guide.place

    same = place(student="resnet8", teacher="resnet8")
    assert same == pytest.approx(0.2)
    assert 0.1 <= place(student="resnet14", teacher="resnet8") < same < place(student="resnet8", teacher="resnet14")
    assert place(student="resnet8", teacher="resnet110") == 0.9


def test_without_training_both_measurements_are_one_and_a_teacher_is_not_needed(make: Make, twins: type[Twins]) -> None:
    guide = suggest_weights(make(methods=(twins(),), teacher=None), batches=2, after_epochs=0, reporter=SILENT)
    assert (guide.teacher, guide.parameter_ratio, guide.teacher_top1, guide.place) == (None, None, None, 0.5)
    assert guide.task_start == guide.task_after
    squares, nothing = guide.terms
    assert squares.flag == nothing.flag == "twins.weight"
    assert squares.suggested is not None
    assert (nothing.lowest, nothing.highest, nothing.balanced, nothing.suggested) == (None, None, None, None)
    assert any("twins/nothing is 0" in note for note in guide.notes)


def test_terms_that_are_switched_off_are_measured_and_do_not_train(make: Make) -> None:
    alone = make(methods=(), teacher=None)
    off = make(methods=(AttentionTransfer(weight=0.0),))
    one, other = prepare(alone), prepare(measurable(off))
    train_for(alone, one, 2, 3, SILENT)
    train_for(off, other, 2, 3, SILENT)
    assert all(torch.equal(state(one)[name], value) for name, value in state(other).items())
    guide = suggest_weights(off, batches=1, after_epochs=0.7, reporter=SILENT)
    assert guide.steps == 2
    assert guide.terms[0].weight == 0
    assert guide.terms[0].suggested is not None
    assert not any("far from" in note for note in guide.notes)


def test_without_labels_the_task_is_measured_and_balances_nothing(make: Make) -> None:
    guide = suggest_weights(make(task_weight=0.0), batches=1, after_epochs=0, reporter=SILENT)
    assert guide.task_weight == 0
    assert guide.task_after.value > 0
    assert [term.balanced for term in guide.terms] == [None, None]


def test_the_factor_is_that_of_the_epoch_reached(make: Make) -> None:
    schedule = Schedule(factors=((0, 1.0), (1, 0.25)))
    experiment = make(methods=(AttentionTransfer(weight=8.0, schedule=schedule),))
    factors = {after: suggest_weights(experiment, 1, after, SILENT).terms[0].factor for after in (0.0, 1.0, 4 / 3)}
    assert factors == {0.0: 1.0, 1.0: 1.0, 4 / 3: 0.25}


@pytest.mark.parametrize(
    ("schedule", "after", "factor"),
    [
        (Schedule(warmup_epochs=4), 1.0, 0.25),
        (Schedule(warmup_epochs=4), 2.0, 0.5),
        (Schedule(decay=((0, 0.1),)), 2.0, 0.1),
    ],
)
def test_weights_for_the_flag_reach_what_they_promise_after_the_schedule_has_multiplied_them(
    make: Make, twins: type[Twins], schedule: Schedule, after: float, factor: float
) -> None:
    # What the term does not train cannot change the sizes: only the schedule differs.
    fields = {"teacher": None, "optimisation": {"learning_rate": 1e-12}}
    plain = suggest_weights(make(methods=(twins(weight=3.0),), **fields), 2, after, SILENT)
    guide = suggest_weights(make(methods=(twins(weight=3.0, schedule=schedule),), **fields), 2, after, SILENT)
    term, reference = guide.terms[0], plain.terms[0]
    assert (term.weight, term.factor, term.scheduled) == (3.0, factor, True)
    assert (reference.factor, reference.scheduled) == (1.0, False)
    for name in ("lowest", "highest", "balanced", "suggested"):
        ours, theirs = getattr(term, name), getattr(reference, name)
        assert factor * ours == pytest.approx(theirs, rel=0.05 if name == "suggested" else 1e-4)
    assert term.lowest is not None
    given = twins(weight=term.lowest, schedule=schedule)
    assert given.weight * given.schedule.factor(round(after) - 1) * term.after.value == pytest.approx(1)
    assert any(f"multiplies --twins.weight: by {factor:.3g} in" in note for note in guide.notes)
    assert not any("schedule" in note for note in plain.notes)
    text = to_text(guide)
    assert f"| 3 × {factor:.3g} |" in " ".join(text.split())
    assert f"to start from: --twins.weight {term.suggested:g}" in text


def test_a_term_that_its_schedule_switches_off_has_no_weight_to_suggest(make: Make, twins: type[Twins]) -> None:
    method = twins(weight=3.0, schedule=Schedule(factors=((0, 0.0), (1, 1.0))))
    guide = suggest_weights(make(methods=(method,), teacher=None), 1, 1.0, SILENT)
    term = guide.terms[0]
    assert term.after.value > 0
    assert (term.factor, term.lowest, term.highest, term.balanced, term.suggested) == (0.0, None, None, None, None)
    assert any("twins/squares is switched off by its schedule" in note for note in guide.notes)
    assert not any("no weight makes it count" in note for note in guide.notes)
    assert "to start from" not in to_text(guide)


def test_notes_say_when_a_teacher_knows_nothing_and_when_to_measure_again(make: Make) -> None:
    guide = suggest_weights(make(methods=(AttentionTransfer(weight=1e-3),)), 3, 0.0, SILENT)
    assert any(f"Measure again with --at.weight {guide.terms[0].suggested:g}" in note for note in guide.notes)
    assert guide.teacher_top1 is not None
    assert any("near chance" in note for note in guide.notes) == (guide.teacher_top1 <= 36.6)


@pytest.mark.parametrize(
    ("fields", "batches", "after", "words"),
    [
        ({"methods": (), "teacher": None}, 1, 1.0, "no methods"),
        ({}, 0, 1.0, "batches must be at least 1"),
        ({}, 1, -0.5, "from 0 to the experiment's 2"),
        ({}, 1, 2.5, "from 0 to the experiment's 2"),
        ({}, 1, float("nan"), "from 0 to the experiment's 2"),
        ({"untrained_teacher": False}, 1, 0.0, "comes without weights"),
    ],
)
def test_what_makes_no_sense_is_refused(
    make: Make, fields: dict[str, object], batches: int, after: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        suggest_weights(make(**fields), batches, after, SILENT)


def test_torchrun_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without torchrun"):
        suggest_weights(make(), 1, 0.0, SILENT)


def test_the_command_prints_a_table_or_json_and_writes_nothing(
    make: Make,
    images: Path,
    tmp_path: Path,
    scratch: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = f"suggest-weight cifar100-resnet56-resnet20 --data npz:{images} --student resnet8 --teacher resnet14"
    words += " --untrained-teacher --epochs 1 --batch-size 16 --threads 1 --device cpu --methods at --task-weight 1"
    assert main([*words.split(), "--batches", "2"]) == 0
    text = capsys.readouterr().out
    assert "resnet8 learns from resnet14, which has 2.3 times its parameters" in text
    assert "| at " in text
    assert "to start from: --at.weight " in text
    assert main([*words.split(), "--batches", "2", "--after-epochs", "1", "--json"]) == 0
    guide = json.loads(capsys.readouterr().out)
    assert guide["terms"][0]["term"] == "at"
    assert f"--at.weight {guide['terms'][0]['suggested']:g}" in text
    assert sorted(tmp_path.rglob("*")) == before
    assert not list(scratch.iterdir())
    assert main([*words.split(), "--run-folder", "x"]) == 2
    assert "nothing is kept" in capsys.readouterr().err
