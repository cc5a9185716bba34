"""A teacher's classes and those of the data: in another order, others, or never learned."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attention_transfer import AttentionTransfer, ClassAttention, SoftTargets
from attention_transfer.analysis.measure import measure
from attention_transfer.analysis.subject import open_subjects
from attention_transfer.data.sources.cluttered_digits import NUM_IMAGES
from attention_transfer.experiment import Data, Experiment, Training
from attention_transfer.models import build, save_model
from attention_transfer.training import experiment_run as fit_module
from attention_transfer.training.evaluate import Score
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import load_data, prepare
from attention_transfer.training.progress import Reporter
from attention_transfer.training.teacher_check import TeacherCheck, check_teacher

Make = Callable[..., Experiment]
NAMES = ("red", "green", "blue")
TURNED = ("blue", "red", "green")
CPU = Training(device="cpu")


@pytest.fixture
def named(images: Path, tmp_path: Path) -> Callable[..., str]:
    """The same images with names of their classes, numbered in the order of these names."""

    def write(classes: tuple[str, ...], order: tuple[str, ...] = NAMES) -> str:
        folder = tmp_path / "-".join(classes).replace(" ", "_")
        folder.mkdir(exist_ok=True)
        for split in ("train", "test"):
            with np.load(images / f"{split}.npz") as content:
                labels = np.array([classes.index(name) if name in classes else k for k, name in enumerate(order)])
                labels = labels[content["labels"]]
                np.savez(folder / f"{split}.npz", images=content["images"], labels=labels, classes=classes)
        return f"npz:{folder}"

    return write


@pytest.fixture
def teacher(make: Make, named: Callable[..., str], tmp_path: Path) -> str:
    """The run of a network that has learned red, green and blue."""
    experiment = make(student="resnet8", teacher=None, methods=(), data=Data(named(NAMES)), training={"epochs": 3})
    fit_experiment(experiment, tmp_path / "teacher", Reporter(silent=True))
    return str(tmp_path / "teacher")


def lines_of(experiment: Experiment, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    fit_experiment(experiment, folder, Reporter())
    return capsys.readouterr().out


@pytest.mark.parametrize("method", [SoftTargets(), ClassAttention()], ids=["kd", "cat-kd"])
def test_an_order_of_its_own_changes_nothing_that_is_learned(
    method: SoftTargets | ClassAttention, teacher: str, make: Make, named: Callable[..., str]
) -> None:
    terms: list[float] = []
    for classes in (NAMES, TURNED):
        prepared = prepare(make(teacher=teacher, methods=(method,), data=Data(named(classes)), training={"epochs": 1}))
        said = [note for note in prepared.notes if "brought from its own order into that of the data" in note]
        assert bool(said) == (classes == TURNED)
        # The student's classes too, so that all that differs is what their indices mean.
        head = prepared.distiller.student.get_submodule("fc")
        index = [NAMES.index(name) for name in classes]
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.copy_(parameter[index])
        batch = next(iter(prepared.train.epoch(0)))
        out = prepared.distiller(batch.image, batch.label)
        terms.append(float(out.terms[method.key].value.detach()))
    assert terms[0] == pytest.approx(terms[1], rel=1e-4)


def test_a_teacher_in_another_order_is_measured_in_that_of_the_data(teacher: str, named: Callable[..., str]) -> None:
    right, _ = measure(teacher, Data(named(NAMES)), "test", CPU)
    turned, notes = measure(teacher, Data(named(TURNED)), "test", CPU)
    assert turned.top1 == right.top1 > 60
    assert any("brought from its own order" in note for note in notes)


def test_the_spelling_of_names_makes_no_difference(teacher: str, named: Callable[..., str]) -> None:
    data = load_data(Data(named(("BLUE", "Red", "green"), order=("Red", "green", "BLUE"))), 0)
    (subject,) = open_subjects([teacher], data, CPU)
    assert subject.opened.classes == ("BLUE", "Red", "green")


@pytest.mark.parametrize("method", [SoftTargets(), ClassAttention()], ids=["kd", "cat-kd"])
def test_other_classes_of_the_same_number_are_refused_where_they_are_read(
    method: SoftTargets | ClassAttention, teacher: str, make: Make, named: Callable[..., str]
) -> None:
    experiment = make(teacher=teacher, methods=(method,), data=Data(named(("red", "green", "violet"))))
    with pytest.raises(ValueError, match=rf"{method.key} learns from the teacher's classes.*'violet'.*'blue'.*index"):
        prepare(experiment)
    prepared = prepare(replace(experiment, match_classes="index"))
    assert prepared.teacher is not None
    assert check_teacher(prepared) is None


def test_other_classes_are_no_matter_where_only_features_are_read(
    teacher: str, make: Make, named: Callable[..., str]
) -> None:
    data = Data(named(("red", "green", "violet")))
    prepared = prepare(make(teacher=teacher, methods=(AttentionTransfer(),), data=data))
    assert check_teacher(prepared) is None


def test_other_classes_are_said_where_a_network_is_measured(teacher: str, named: Callable[..., str]) -> None:
    _, notes = measure(teacher, Data(named(("red", "green", "violet"))), "test", CPU)
    assert any("trained on other classes" in note and "'violet'" in note for note in notes)


def test_digits_are_classes_with_names(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NUM_IMAGES, "test", 20)
    save_model(build("resnet8", 10), tmp_path, "resnet8", 10, extra={"classes": [*"abcdefghij"]})
    data = Data("cluttered-digits", train_limit=32, test_limit=8)
    with pytest.raises(ValueError, match=r"kd learns from the teacher's classes.*'0', '1', '2', …"):
        prepare(make(teacher=str(tmp_path), methods=(SoftTargets(),), data=data))


@pytest.mark.parametrize("classes", [TURNED, ("red", "green", "violet")])
def test_a_student_starts_from_a_last_layer_for_its_own_classes_or_says_so(
    classes: tuple[str, ...], teacher: str, make: Make, named: Callable[..., str]
) -> None:
    prepared = prepare(make(student=teacher, teacher=None, methods=(), data=Data(named(classes))))
    words = "brought from its own order" if classes == TURNED else "starts from that of other classes: 1 of"
    assert sum(words in note for note in prepared.notes) == 1


def test_a_teacher_is_measured_before_it_teaches(
    teacher: str, make: Make, named: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make(teacher=teacher, methods=(SoftTargets(),), data=Data(named(TURNED)), training={"epochs": 1})
    said = lines_of(experiment, tmp_path / "run", capsys)
    known = json.loads((tmp_path / "run" / "environment.json").read_text())["teacher"]
    assert f"teacher: {known['top1']:.0f} % of 48 images (train)" in said
    assert "WARNING" not in said
    assert (known["count"], known["split"], known["near_chance"]) == (48, "train", False)
    assert known["chance"] == pytest.approx(100 / 3)


def test_a_teacher_that_knows_nothing_is_said_loudly(
    make: Make, named: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_model(build("resnet8", 3), tmp_path, "resnet8", 3)
    experiment = make(teacher=str(tmp_path), methods=(SoftTargets(),), data=Data(named(NAMES)), training={"epochs": 1})
    assert "WARNING: the teacher does no better than guessing" in lines_of(experiment, tmp_path / "run", capsys)


def test_an_accepted_teacher_without_weights_is_not_measured(make: Make) -> None:
    assert check_teacher(prepare(make())) is None


def test_measuring_changes_nothing_that_is_learned(
    teacher: str, make: Make, named: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make(teacher=teacher, methods=(SoftTargets(), AttentionTransfer()), data=Data(named(NAMES)))
    fit_experiment(experiment, tmp_path / "measured", Reporter(silent=True))
    monkeypatch.setattr(fit_module, "check_teacher", lambda prepared: None)
    fit_experiment(experiment, tmp_path / "unmeasured", Reporter(silent=True))
    first, second = (tmp_path / name / "student.safetensors" for name in ("measured", "unmeasured"))
    assert first.read_bytes() == second.read_bytes()


def test_measuring_disturbs_no_generator_and_no_mode(teacher: str, make: Make, named: Callable[..., str]) -> None:
    prepared = prepare(
        make(teacher=teacher, methods=(SoftTargets(),), data=Data(named(NAMES), validation_fraction=0.3))
    )
    assert prepared.teacher is not None
    modes = [module.training for module in prepared.teacher.module.modules()]
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    check = check_teacher(prepared)
    assert check is not None
    assert check.split == "validation"
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert [module.training for module in prepared.teacher.module.modules()] == modes


@pytest.mark.parametrize(
    ("top1", "count", "chance", "near"),
    [
        (10.0, 256, 10.0, True),
        (14.0, 256, 10.0, True),
        (25.0, 256, 10.0, False),
        (0.0, 256, 10.0, True),
        (1.2, 256, 0.1, False),
        (55.0, 256, 50.0, True),
        (90.0, 200, 90.0, True),
        (100.0, 8, 33.3, False),
        (100.0, 2, 33.3, True),
        (100.0, 256, 100.0, True),
    ],
)
def test_near_chance_is_what_guessing_may_reach_in_so_few_images(
    top1: float, count: int, chance: float, near: bool
) -> None:
    assert TeacherCheck(Score(1.0, top1, 100.0, count), "train", chance).near_chance == near


def test_what_a_cache_keeps_of_a_teacher_goes_with_its_order(
    teacher: str, make: Make, named: Callable[..., str], tmp_path: Path
) -> None:
    for name, classes in (("as-it-is", NAMES), ("turned", TURNED)):
        data = Data(named(classes))
        experiment = make(teacher=teacher, methods=(SoftTargets(),), data=data, training={"epochs": 1})
        fit_experiment(experiment, tmp_path / f"{name}-cached", Reporter(silent=True), teacher_cache=tmp_path / "cache")
        fit_experiment(experiment, tmp_path / f"{name}-run", Reporter(silent=True))
        cached, run = (tmp_path / f"{name}-{kind}" / "student.safetensors" for kind in ("cached", "run"))
        assert cached.read_bytes() == run.read_bytes()
    assert len(list((tmp_path / "cache").iterdir())) == 2
