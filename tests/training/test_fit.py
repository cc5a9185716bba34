"""The training loop: it learns, records, stops cleanly, and goes on as if nothing had happened."""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from tests.training.conftest import Make
from torch import nn

from attention_transfer import (
    METHODS,
    MODELS,
    ClassAttention,
    Data,
    GradientAttention,
    Method,
    SoftTargets,
    Term,
    build,
)
from attention_transfer.batch import Batch
from attention_transfer.data import Split
from attention_transfer.methods import Needs, Observed, Phase, Reads, Request
from attention_transfer.models import Description, open_model
from attention_transfer.runs import RunExistsError, RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.metrics import NonFiniteLossError
from attention_transfer.training.prepare import evenly, load_data
from attention_transfer.training.progress import Reporter


class KilledError(Exception):
    """Stands for a killed process."""


class Killer(Reporter):
    """Stops the run after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(silent=True)
        self.left = steps

    def steps(self, items: Iterable[Any], total: int, done: int, title: str) -> Iterator[Any]:
        for item in items:
            if self.left == 0:
                raise KilledError
            self.left -= 1
            yield item


def silent() -> Reporter:
    return Reporter(silent=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Metrics without the clock."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(folder).read_metrics()]


def test_loss_falls_and_everything_is_recorded(make: Make, tmp_path: Path) -> None:
    experiment = make(training={"epochs": 6}, teacher=None, methods=())
    fit_experiment(experiment, tmp_path / "run", silent())
    run = RunFolder(tmp_path / "run")
    metrics = run.read_metrics()
    assert [row["epoch"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert metrics[-1]["train"]["loss"] < 0.7 * metrics[0]["train"]["loss"]
    assert metrics[-1]["test"]["top1"] > 60
    assert set(metrics[-1]["test"]) == {"loss", "top1", "top5", "count"}
    assert metrics[-1]["terms"]["ce"]["weighted"] == pytest.approx(metrics[-1]["terms"]["ce"]["raw"])
    assert run.summary is not None
    assert run.summary["samples_seen"] == 6 * 48
    assert run.summary["student"]["train"]["count"] == 48
    assert run.summary["teacher"] is None
    assert run.environment is not None
    assert {"python", "torch", "timm"} <= set(run.environment["versions"])


def test_terms_are_recorded_raw_and_weighted_and_the_teacher_is_measured(make: Make, tmp_path: Path) -> None:
    fit_experiment(make(task_weight=0.1), tmp_path / "run", silent())
    run = RunFolder(tmp_path / "run")
    terms = run.read_metrics()[-1]["terms"]
    assert {name: term["weight"] for name, term in terms.items()} == {"ce": 0.1, "at": 1000.0, "kd": 0.9}
    for term in terms.values():
        assert term["weighted"] == pytest.approx(term["weight"] * term["raw"])
    assert run.summary is not None
    assert set(run.summary["teacher"]) == {"train", "test"}


def test_validation_images_are_measured_each_epoch_and_not_learned_from(make: Make, tmp_path: Path) -> None:
    experiment = make(teacher=None, methods=())
    fit_experiment(
        replace(experiment, data=replace(experiment.data, validation_fraction=0.25)), tmp_path / "run", silent()
    )
    run = RunFolder(tmp_path / "run")
    held_out = {row["validation"]["count"] for row in run.read_metrics()}
    assert len(held_out) == 1
    assert run.summary is not None
    assert run.summary["samples_seen"] == 2 * (48 - held_out.pop())
    assert run.summary["student"]["test"]["count"] == 24


def test_the_student_loads_in_plain_torch(make: Make, tmp_path: Path) -> None:
    fit_experiment(make(), tmp_path / "run", silent())
    config = json.loads((tmp_path / "run" / "student.json").read_text())
    student = build(config["model"], config["num_classes"])
    student.load_state_dict(safetensors.torch.load_file(tmp_path / "run" / "student.safetensors"))
    with np.load(tmp_path / "images" / "test.npz") as file:
        pixels, labels = torch.from_numpy(file["images"]).permute(0, 3, 1, 2) / 255, torch.from_numpy(file["labels"])
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    hits = (student.eval()((pixels - mean) / std).argmax(1) == labels).float().mean()
    summary = RunFolder(tmp_path / "run").summary
    assert summary is not None
    assert 100 * float(hits) == pytest.approx(summary["student"]["test"]["top1"], abs=1e-3)


@pytest.mark.parametrize(("every", "killed_after"), [(None, 4), (2, 5)])
def test_an_interrupted_run_ends_with_the_same_student_bit_for_bit(
    make: Make, tmp_path: Path, every: int | None, killed_after: int
) -> None:
    experiment = make(training={"epochs": 3, "checkpoint_every_steps": every})
    fit_experiment(experiment, tmp_path / "whole", silent())
    with pytest.raises(KilledError):
        fit_experiment(experiment, tmp_path / "broken", Killer(killed_after))
    assert not RunFolder(tmp_path / "broken").finished
    fit_experiment(experiment, tmp_path / "broken", silent())
    whole, broken = (tmp_path / name / "student.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")


def test_a_finished_run_is_left_alone_and_another_experiment_refused(make: Make, tmp_path: Path) -> None:
    fit_experiment(make(), tmp_path / "run", silent())
    before = (tmp_path / "run" / "summary.json").stat().st_mtime_ns
    fit_experiment(make(), tmp_path / "run", silent())
    assert (tmp_path / "run" / "summary.json").stat().st_mtime_ns == before
    with pytest.raises(RunExistsError, match="seed is 0 there, 1 now"):
        fit_experiment(make(seed=1), tmp_path / "run", silent())


def test_a_run_written_before_a_setting_existed_is_the_same_run(make: Make, tmp_path: Path) -> None:
    fit_experiment(make(), tmp_path / "run", silent())
    file = tmp_path / "run" / "experiment.json"
    recorded = json.loads(file.read_text())
    del recorded["data"]["test_limit"]
    file.write_text(json.dumps(recorded))
    fit_experiment(make(), tmp_path / "run", silent())
    recorded["data"]["num_workers"] = 3
    file.write_text(json.dumps(recorded))
    with pytest.raises(RunExistsError, match="num_workers is 3 there, 0 now"):
        fit_experiment(make(), tmp_path / "run", silent())


def test_the_same_seed_starts_from_the_same_student_whatever_the_method(make: Make, tmp_path: Path) -> None:
    from attention_transfer.training.prepare import prepare

    alone = prepare(make(teacher=None, methods=())).distiller.student.state_dict()
    taught = prepare(make()).distiller.student.state_dict()
    assert all(torch.equal(alone[name], taught[name]) for name in alone)


@pytest.fixture
def toy_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (Exploding, TwoPhases):
        monkeypatch.setitem(METHODS, method.key, method)


@dataclass(frozen=True)
class Exploding(Method):
    """Becomes infinite when the images say so: from the third step on."""

    key: ClassVar[str] = "exploding"

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        return Reads(batch=Needs(index=True))

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        assert student.logits is not None
        bad = bool((batch.index == 7).any()) and student.logits.shape[0] == 16
        return {"exploding": Term(student.logits.mean() * (float("inf") if bad else 1.0))}


@pytest.mark.usefixtures("toy_methods")
def test_a_loss_that_is_not_finite_stops_the_run_and_names_term_and_step(make: Make, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"not finite: exploding, gradient in epoch 1, step \d"):
        fit_experiment(make(methods=(Exploding(),)), tmp_path / "run", silent())
    assert not RunFolder(tmp_path / "run").finished


@dataclass(frozen=True)
class TwoPhases(Method):
    """Trains a layer of its own first, then the student."""

    key: ClassVar[str] = "two"
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("first", trains="parts", terms=("two",), epochs=2, learning_rate=0.01),
        Phase("second", trains="student"),
    )

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        assert teacher is not None
        return Reads(Request((teacher.stages[-1].output,)), Request((student.stages[-1].output,)))

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        return nn.Conv2d(student.features[0].shape[1], teacher.features[0].shape[1], 1)

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        assert parts is not None
        return {"two": Term((parts(student.features[0]) - teacher.features[0]).square().mean())}


@pytest.mark.usefixtures("toy_methods")
def test_phases_train_what_they_say_and_resume_in_the_middle(make: Make, tmp_path: Path) -> None:
    experiment = make(methods=(TwoPhases(),), training={"epochs": 2})
    fit_experiment(experiment, tmp_path / "whole", silent())
    metrics = rows(tmp_path / "whole")
    assert [row["phase"] for row in metrics] == ["first", "first", "second", "second"]
    assert metrics[0]["learning_rate"] == 0.01
    # The student rests in the first phase: measured twice, it gives the same.
    assert metrics[0]["test"] == metrics[1]["test"] != metrics[2]["test"]
    with pytest.raises(KilledError):
        fit_experiment(experiment, tmp_path / "broken", Killer(4))
    fit_experiment(experiment, tmp_path / "broken", silent())
    whole, broken = (tmp_path / name / "student.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


def test_weights_that_are_not_finite_stop_the_run_though_losses_are(make: Make, tmp_path: Path) -> None:
    experiment = make(teacher=None, methods=(), optimisation={"learning_rate": 1e38, "schedule": "constant"})
    with pytest.raises(NonFiniteLossError):
        fit_experiment(experiment, tmp_path / "run", silent())
    assert not RunFolder(tmp_path / "run").read_metrics()
    assert not list(RunFolder(tmp_path / "run").checkpoints.glob("*"))


class Dice(nn.Module):
    """Noise from the generators of Python and NumPy, as some libraries use inside their networks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))


def test_resuming_is_exact_for_networks_that_draw_from_other_generators(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "resnet8", lambda classes: nn.Sequential(Dice(), MODELS["resnet14"](classes)))
    experiment = make(teacher=None, methods=())
    fit_experiment(experiment, tmp_path / "whole", silent())
    with pytest.raises(KilledError):
        fit_experiment(experiment, tmp_path / "broken", Killer(4))
    random.seed(99)
    fit_experiment(experiment, tmp_path / "broken", silent())
    whole, broken = (tmp_path / name / "student.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


def test_a_teacher_sees_images_of_its_own_size_and_normalisation(make: Make, tmp_path: Path) -> None:
    from attention_transfer.training.prepare import prepare

    teacher = build("timm:vit_tiny_patch16_224", 3)
    safetensors.torch.save_file(teacher.state_dict(), tmp_path / "vit.safetensors")
    name = f"timm:vit_tiny_patch16_224@{tmp_path / 'vit.safetensors'}"
    said = {"teacher_mean": (0.1, 0.2, 0.3), "teacher_std": (0.5, 0.5, 0.5)}
    prepared = prepare(make(teacher=name, methods=(SoftTargets(),), **said))
    batch = next(iter(prepared.train.epoch(0)))
    images = prepared.distiller.teacher_images(batch.image)
    assert images.shape == (16, 3, 224, 224)
    mean, std = (torch.tensor(values)[:, None, None] for values in (prepared.dataset.mean, prepared.dataset.std))
    raw = (batch.image * std + mean).mean((0, 2, 3))
    seen = (images * 0.5 + torch.tensor([0.1, 0.2, 0.3])[:, None, None]).mean((0, 2, 3))
    torch.testing.assert_close(seen, raw, rtol=0, atol=5e-3)
    assert "normalisation is unknown" in prepare(make(teacher=name, methods=(SoftTargets(),))).notes[0]


@pytest.mark.parametrize(
    ("methods", "noted"), [((ClassAttention(),), True), ((ClassAttention(normalise="l2"),), False)]
)
def test_what_a_method_decides_by_itself_is_said(make: Make, methods: tuple[Method, ...], noted: bool) -> None:
    from attention_transfer.training.prepare import prepare

    notes = prepare(make(methods=methods)).notes
    assert ("cat: normalise=auto means none here" in notes) == noted


def test_a_rate_that_only_rises_is_said(make: Make) -> None:
    from attention_transfer.training.prepare import prepare

    for warmup, said in ((2, True), (1, False)):
        notes = prepare(make(optimisation={"warmup_epochs": warmup})).notes
        assert any("it never decays" in note for note in notes) == said


def test_notes_name_places_as_the_user_did(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attention_transfer.training.prepare import prepare

    network = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=1)
    weights = {name: value for name, value in network.state_dict().items() if not name.startswith("head")}
    safetensors.torch.save_file(weights, tmp_path / "vit.safetensors")
    monkeypatch.setenv("PLACE", str(tmp_path))
    sizes = "img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=1, global_pool='avg'"
    student = f"timm:vit_tiny_patch16_224({sizes})@$PLACE/vit.safetensors"
    notes = prepare(make(student=student, teacher=None, methods=())).notes
    assert any("$PLACE/vit.safetensors norms every token" in note for note in notes)
    assert not any(str(tmp_path) in note for note in notes)


def test_the_train_split_is_measured_over_all_of_it() -> None:
    split = Split(np.zeros((100, 8, 8, 3), np.uint8), np.repeat(np.arange(4), 25))
    assert sorted(evenly(split, 8).labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert evenly(split, 100) is split


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"untrained_teacher": False}, "comes without weights and would teach noise"),
        ({"student": "resnet9"}, "resnet8"),
        ({"student": "nowhere/run"}, "neither a model's name nor an existing file"),
        ({"data": Data("npz:$NOT_SET_ANYWHERE/x")}, "environment variable that is not set"),
        ({"training": {"device": "warp:9"}}, "cannot be used here"),
        ({"optimisation": {"optimizer": "wishful"}}, "cannot be built by timm"),
        (
            {"methods": (SoftTargets(), GradientAttention()), "training": {"compile": True}},
            "gradient needs the gradient of a gradient, and torch.compile cannot differentiate twice: leave",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    make: Make, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        fit_experiment(make(**fields), tmp_path / "run", silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "runs/gone"}, "neither a model's name nor an existing file"),
        ({"teacher": "resnet8@gone.safetensors"}, r"there is no file of weights gone\.safetensors"),
        ({"student": "resnet8@gone.pt"}, r"there is no file of weights gone\.pt"),
    ],
)
def test_a_network_that_is_not_there_is_refused_before_any_image_is_loaded(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(
        "attention_transfer.training.prepare.load_data", lambda *args, **kwargs: pytest.fail("images were loaded")
    )
    with pytest.raises(ValueError, match=message):
        fit_experiment(make(**changes), tmp_path / "run", silent())


def test_a_teacher_of_other_classes_is_refused_only_where_its_logits_are_read(make: Make, tmp_path: Path) -> None:
    teacher = build("resnet14", 7)
    safetensors.torch.save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    name = f"resnet14@{tmp_path / 'teacher.safetensors'}"
    with pytest.raises(ValueError, match="the teacher has 7, the student 3"):
        fit_experiment(make(teacher=name, methods=(SoftTargets(),)), tmp_path / "run", silent())
    fit_experiment(make(teacher=name, methods=(METHODS["at"](),)), tmp_path / "run", silent())
    summary = RunFolder(tmp_path / "run").summary
    assert summary is not None
    assert summary["teacher"] is None


def test_classes_left_out_are_measured_apart_and_not_learned_from(make: Make, tmp_path: Path) -> None:
    experiment = make(training={"epochs": 3})
    data = replace(experiment.data, train_classes=2, train_fraction=0.5)
    fit_experiment(replace(experiment, data=data), tmp_path / "run", silent())
    run = RunFolder(tmp_path / "run")
    assert run.summary is not None
    assert run.summary["samples_seen"] == 3 * 16
    for row in (*run.read_metrics(), run.summary["student"], run.summary["teacher"]):
        assert row["test"]["count"] == 24
        assert row["unseen"]["count"] == 8
    seen = (24 * row["test"]["top1"] - 8 * row["unseen"]["top1"]) / 16
    assert 0 <= seen <= 100
    assert run.read_metrics()[-1]["unseen"]["top1"] == 0  # a student that never saw the third class does not name it
    opened = open_model(str(run.path))
    assert opened.num_classes == 3


def test_a_test_limit_that_leaves_no_unseen_image_is_refused(make: Make, tmp_path: Path) -> None:
    experiment = make()
    with pytest.raises(ValueError, match=r"none of the 1 test images of npz:.* beyond the first 2: raise test_limit"):
        load_data(replace(experiment.data, train_classes=2, test_limit=1), 0)
    with pytest.raises(ValueError, match=r"train_classes must be 1…3, .* not 4"):
        load_data(replace(experiment.data, train_classes=4), 0)
