"""A teacher whose answers are kept: the same training to the bit, without running it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from attention_transfer import AttentionDistillation, Data, Experiment, Method, Overhaul, Training
from attention_transfer.distiller import Distiller
from attention_transfer.experiment import Optimisation
from attention_transfer.methods import METHODS
from attention_transfer.report.compare import compare
from attention_transfer.runs import RunFolder
from attention_transfer.training.cache import TeacherCache, remember_teacher
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import prepare
from attention_transfer.training.progress import Reporter

VIT = "timm:vit_tiny_patch16_224(img_size=32, patch_size=8, depth=2, embed_dim=12, num_heads=2)"
SILENT = Reporter(silent=True)


def experiment(*methods: str | Method, network: str = "resnet8", **changed: Any) -> Experiment:
    chosen = tuple(METHODS[each]() if isinstance(each, str) else each for each in methods)
    made = Experiment(
        "test",
        network,
        teacher=network if methods else None,
        untrained_teacher=bool(methods),
        methods=chosen,
        data=Data(train_limit=24, test_limit=8),
        optimisation=Optimisation(learning_rate=0.01),
        training=Training(epochs=2, batch_size=8, precision="bfloat16", device="cpu"),
    )
    return replace(made, **changed)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the teacher is asked for in each training step that runs it."""
    from attention_transfer.distiller.teacher import Teacher

    seen: list[int] = []
    run = Teacher._run

    def watched(self: Teacher, images: Tensor, labels: Tensor | None):
        seen.append(len(images))
        return run(self, images, labels)

    monkeypatch.setattr(Teacher, "_run", watched)
    return seen


def student(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "student.safetensors")


def assert_same_training(one: Path, other: Path) -> None:
    weights = student(one), student(other)
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    losses = [[row["train"]["loss"] for row in RunFolder(each).read_metrics()] for each in (one, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("methods", "network", "precision"),
    [
        (("at", "kd"), "resnet8", "bfloat16"),
        (("crd",), "resnet8", "float32"),
        ((AttentionDistillation(),), VIT, "bfloat16"),
        (("feature-distillation",), VIT, "float32"),
    ],
)
def test_a_run_that_reads_it_is_the_same_to_the_bit(
    methods: tuple[str | Method, ...],
    network: str,
    precision: Literal["float32", "bfloat16"],
    runs: list[int],
    tmp_path: Path,
) -> None:
    wanted = experiment(*methods, network=network)
    wanted = replace(wanted, training=replace(wanted.training, precision=precision))
    fit_experiment(wanted, tmp_path / "without", SILENT)
    steps = len(runs)
    for name in ("first", "second"):
        runs.clear()
        fit_experiment(wanted, tmp_path / name, SILENT, teacher_cache=tmp_path / "cache")
        # The first step is always run, and compared with what is there.
        assert len(runs) == (steps if name == "first" else 1)
        assert_same_training(tmp_path / "without", tmp_path / name)


def test_what_another_method_reads_beyond_it_is_added(runs: list[int], tmp_path: Path) -> None:
    for name, methods, expected in (("kd", ("kd",), 6), ("both", ("kd", "at"), 6), ("at", ("at",), 1)):
        runs.clear()
        fit_experiment(experiment(*methods), tmp_path / name, SILENT, teacher_cache=tmp_path / "cache")
        assert len(runs) == expected


def test_an_interrupted_run_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = experiment("at")
    fit_experiment(wanted, tmp_path / "whole", SILENT)
    forward, steps = Distiller.forward, []

    def interrupted(self: Distiller, *args: Any):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return forward(self, *args)

    monkeypatch.setattr(Distiller, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_experiment(wanted, tmp_path / "run", SILENT, teacher_cache=tmp_path / "cache")
    fit_experiment(wanted, tmp_path / "run", SILENT, teacher_cache=tmp_path / "cache")
    assert_same_training(tmp_path / "whole", tmp_path / "run")


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/epoch-*/*/*.safetensors"))


def test_a_file_that_was_cut_short_is_made_again(runs: list[int], tmp_path: Path) -> None:
    wanted = experiment("kd")
    fit_experiment(wanted, tmp_path / "first", SILENT, teacher_cache=tmp_path / "cache")
    for path in kept(tmp_path / "cache"):
        path.write_bytes(path.read_bytes()[:-7])
    runs.clear()
    fit_experiment(wanted, tmp_path / "second", SILENT, teacher_cache=tmp_path / "cache")
    assert len(runs) == 6
    assert_same_training(tmp_path / "first", tmp_path / "second")
    runs.clear()
    fit_experiment(wanted, tmp_path / "third", SILENT, teacher_cache=tmp_path / "cache")
    assert len(runs) == 1


def test_what_a_changed_teacher_gave_is_refused(tmp_path: Path) -> None:
    wanted = experiment("kd")
    fit_experiment(wanted, tmp_path / "first", SILENT, teacher_cache=tmp_path / "cache")
    for path in kept(tmp_path / "cache"):
        save_file({"value": load_file(path)["value"] + 1}, path, metadata={"order": "[0, 1]"})
    with pytest.raises(ValueError, match=r"holds something else than what this teacher gives.*Delete that folder"):
        fit_experiment(wanted, tmp_path / "second", SILENT, teacher_cache=tmp_path / "cache")


def full(path: Path) -> SimpleNamespace:
    return SimpleNamespace(free=100)


def test_a_disk_that_is_too_small_is_met_in_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(ValueError, match=r"in 6 steps takes 0\.0 GB.*leave out --teacher-cache"):
        fit_experiment(experiment("kd"), tmp_path / "run", SILENT, teacher_cache=tmp_path / "cache")
    assert not kept(tmp_path / "cache")


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"data": Data(train_limit=24, test_limit=8, augment="none")},
        {"data": Data(train_limit=16, test_limit=8)},
        {"training": Training(epochs=2, batch_size=12, precision="bfloat16", device="cpu")},
        {"training": Training(epochs=2, batch_size=8, device="cpu")},
        {"teacher_mean": (0.1, 0.2, 0.3), "teacher_std": (0.2, 0.2, 0.2)},
        {"teacher": "resnet14"},
    ],
)
def test_whatever_decides_what_the_teacher_gives_has_a_folder_of_its_own(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    for wanted in (experiment("kd"), experiment("kd", **changed)):
        remember_teacher(tmp_path / "cache", wanted, prepare(wanted), 1)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_decides_nothing_has_not(tmp_path: Path) -> None:
    other = experiment("at", task_weight=0.5, data=Data(train_limit=24, test_limit=4), optimisation=Optimisation())
    for wanted in (experiment("kd"), other):
        remember_teacher(tmp_path / "cache", wanted, prepare(wanted), 1)
    (folder,) = (tmp_path / "cache").iterdir()
    assert json.loads((folder / "key.json").read_text())["seed"] == 0


@pytest.mark.parametrize(
    ("method", "compiled", "reason"),
    [
        ("gradient", False, "its gradients are read"),
        ("ofd", False, "a method runs it in mode 'train'"),
        ("kd", True, "it is compiled together with the student"),
    ],
)
def test_where_it_cannot_be_kept_the_teacher_runs_and_the_user_is_told(
    method: str, compiled: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_transfer.training.refusals.compiles", lambda: True)
    wanted = experiment(Overhaul(teacher_runs="train") if method == "ofd" else method)
    wanted = replace(wanted, training=replace(wanted.training, compile=compiled))
    prepared = remember_teacher(tmp_path / "cache", wanted, prepare(wanted), 1)
    assert not prepared.teacher_cached
    assert prepared.notes[-1] == f"the teacher runs in every step, and {tmp_path / 'cache'} is not used: {reason}"
    assert not (tmp_path / "cache").exists()


def test_without_a_teacher_nothing_is_made(tmp_path: Path) -> None:
    fit_experiment(experiment(), tmp_path / "run", SILENT, teacher_cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_place_that_cannot_be_a_folder_is_refused_before_the_run_begins(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ValueError, match=r"--teacher-cache .* cannot be made"):
        fit_experiment(experiment("kd"), tmp_path / "run", SILENT, teacher_cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists()


def test_evaluation_does_not_ask_it(tmp_path: Path) -> None:
    wanted = experiment("kd")
    prepared = prepare(wanted)
    distiller = prepared.distiller
    assert isinstance(distiller, Distiller)
    distiller.remember_teacher(TeacherCache(tmp_path / "cache", 6))
    batch = next(iter(prepared.train.epoch(0)))
    distiller.eval()
    with torch.no_grad():
        distiller(batch.image, batch.label, batch.index)
    assert not (tmp_path / "cache").exists()
    distiller.train()
    distiller(batch.image, batch.label)  # whose places nobody knows
    assert not (tmp_path / "cache").exists()


def test_a_distiller_without_teacher_has_nothing_to_remember(tmp_path: Path) -> None:
    distiller = prepare(experiment()).distiller
    assert isinstance(distiller, Distiller)
    with pytest.raises(ValueError, match="there is no teacher"):
        distiller.remember_teacher(TeacherCache(tmp_path, 1))


def test_compare_says_that_times_lack_the_teacher(tmp_path: Path) -> None:
    wanted = experiment("kd")
    fit_experiment(wanted, tmp_path / "with", SILENT, teacher_cache=tmp_path / "cache")
    fit_experiment(replace(wanted, seed=1), tmp_path / "without", SILENT)
    comparison = compare([RunFolder(tmp_path / "with"), RunFolder(tmp_path / "without")])
    assert any("teacher read from a cache" in machine for group in comparison.groups for machine in group.hardware)
    assert any("the use of a teacher cache" in warning for warning in comparison.warnings)
