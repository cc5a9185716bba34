"""A student that computes with its teacher's attention is measured, kept and opened together with it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attention_transfer import AttentionCopy
from attention_transfer.analysis.subject import open_subjects
from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.models import open_model
from attention_transfer.runs import RunFolder
from attention_transfer.training.evaluate import evaluate
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import load_data
from attention_transfer.training.progress import Reporter

VIT = "timm:vit_tiny_patch16_224(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2)"
DATA = Data(train_limit=32, test_limit=64)
TRAINING = Training(epochs=2, batch_size=8, snapshot_epochs=(1,))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of attention copy, with a moved teacher."""
    folder = tmp_path_factory.mktemp("together")
    alone = Experiment("test", VIT, data=DATA, training=replace(TRAINING, snapshot_epochs=None), seed=1)
    fit_experiment(alone, folder / "teacher", Reporter(silent=True))
    copied = replace(
        alone,
        teacher=str(folder / "teacher"),
        methods=(AttentionCopy(head_match="mixed"),),
        training=TRAINING,
        optimisation=Optimisation(optimizer="adamw", learning_rate=0.01),
        seed=0,
    )
    fit_experiment(copied, folder / "run", Reporter(silent=True))
    # What is needed lies in the run folder.
    (folder / "teacher").rename(folder / "gone")
    return folder / "run"


def test_what_is_measured_in_training_is_measured_again_from_the_folder_alone(run: Path) -> None:
    dataset = load_data(DATA, 0)
    (subject,) = open_subjects([str(run)], dataset, Training())
    score = evaluate(subject.module, subject.loader(dataset.test, 64), subject.place, subject.prepare)
    recorded = RunFolder(run).summary["student"]["test"]
    assert score.loss == pytest.approx(recorded["loss"], rel=1e-6)
    assert score.top1 == recorded["top1"]


def test_a_snapshot_finds_the_same_teacher(run: Path) -> None:
    dataset = load_data(DATA, 0)
    snapshot = RunFolder(run).snapshots[1]
    (subject,) = open_subjects([str(snapshot)], dataset, Training())
    score = evaluate(subject.module, subject.loader(dataset.test, 64), subject.place, subject.prepare)
    assert score.loss == pytest.approx(RunFolder(run).read_metrics()[0]["test"]["loss"], rel=1e-6)
    assert not (snapshot / "teacher").exists()


def test_the_student_alone_is_a_plain_network_and_its_folder_says_what_it_lacks(run: Path) -> None:
    plain = open_model(str(run))
    (together,) = open_subjects([str(run)], load_data(DATA, 0), Training())
    image = torch.rand(2, 3, 32, 32)
    assert not torch.allclose(plain.module(image), together.module(image))
    described = json.loads((run / "student.json").read_text())["used_with"]
    assert described["teacher"] == "teacher"
    assert described["methods"][0]["name"] == "attention-copy"


def test_training_that_goes_on_from_the_student_alone_says_so(run: Path, tmp_path: Path) -> None:
    lines: list[str] = []

    class Listening(Reporter):
        def line(self, text: str) -> None:
            lines.append(text)

    onward = Experiment("test", str(run), data=DATA, training=replace(TRAINING, snapshot_epochs=None, epochs=1))
    fit_experiment(onward, tmp_path / "onward", Listening(silent=True))
    assert any("computed with its teacher's attention" in line for line in lines)


def test_it_can_teach_in_turn(run: Path, tmp_path: Path) -> None:
    from attention_transfer import SoftTargets

    pupil = Experiment(
        "test", "resnet8", str(run), (SoftTargets(),), data=DATA, training=replace(TRAINING, snapshot_epochs=None)
    )
    fit_experiment(pupil, tmp_path / "pupil", Reporter(silent=True))
    taught = RunFolder(tmp_path / "pupil").summary["teacher"]["test"]["top1"]
    assert taught == RunFolder(run).summary["student"]["test"]["top1"]
