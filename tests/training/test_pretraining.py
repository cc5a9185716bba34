"""Pre-training without labels: the one loop, its run folder, and what can be done with it."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.training.conftest import images

from attention_transfer import AttentionTransfer, Data, Experiment, Optimisation, SoftTargets, Training
from attention_transfer.experiment import from_json, to_json
from attention_transfer.models import open_model
from attention_transfer.pretraining import MaskedAutoencoding
from attention_transfer.report.compare import compare
from attention_transfer.runs import STUDENT_WEIGHTS, RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.knn import nearest_classes
from attention_transfer.training.prepare import load_data
from attention_transfer.training.progress import Item, Reporter

__all__ = ["images"]

VIT = "timm:vit_tiny_patch16_224(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2)"
Make = Callable[..., Experiment]


@pytest.fixture
def pretraining(images: Path) -> Make:
    """Two epochs of masked autoencoding with a transformer of two blocks."""

    def experiment(**training: object) -> Experiment:
        return Experiment(
            "test",
            VIT,
            data=Data(f"npz:{images}", augment="random-resized-crop"),
            optimisation=Optimisation("adamw", 1e-3, schedule="cosine", betas=(0.9, 0.95), decay_norm_and_bias=False),
            training=Training(**({"epochs": 2, "batch_size": 16, "threads": 1, "device": "cpu"} | training)),  # pyright: ignore[reportArgumentType]
            pretraining=MaskedAutoencoding(decoder_width=16, decoder_heads=2),
        )

    return experiment


class Killed(Reporter):
    """Stops a run after some steps, as a power cut would."""

    def __init__(self, steps: int) -> None:
        super().__init__(silent=True)
        self.left = steps

    def steps(self, items: Iterable[Item], total: int, done: int, title: str) -> Iterator[Item]:
        for item in items:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield item


def quiet(experiment: Experiment, folder: Path) -> RunFolder:
    fit_experiment(experiment, folder, Reporter(silent=True))
    return RunFolder(folder)


def test_the_loss_falls_and_the_run_says_what_it_did(pretraining: Make, tmp_path: Path) -> None:
    experiment = pretraining(epochs=6, evaluate_every_epochs=3)
    run = quiet(experiment, tmp_path / "run")
    rows = run.read_metrics()
    losses = [row["terms"]["reconstruction"]["raw"] for row in rows]
    assert losses[-1] < losses[0]
    assert [epoch for epoch, row in enumerate(rows, 1) if "neighbours" in row] == [3, 6]
    neighbours = rows[-1]["neighbours"]
    assert {name: neighbours[name] for name in ("neighbours", "train_count", "count")} == {
        "neighbours": 20,
        "train_count": 48,
        "count": 24,
    }
    assert "test" not in rows[-1]
    assert "top1" not in rows[-1]["train"]
    assert run.summary is not None
    assert run.summary["student"]["neighbours"] == neighbours
    assert run.summary["teacher"] is None
    assert from_json(run.experiment) == experiment
    groups = compare([run]).groups
    assert [(group.name, group.last_epoch) for group in groups] == [("pre-training", None)]


@pytest.mark.parametrize("steps", [2, 4])
def test_a_resumed_pretraining_is_bit_for_bit_the_uninterrupted_one(
    steps: int, pretraining: Make, tmp_path: Path
) -> None:
    experiment = pretraining(checkpoint_every_steps=1)
    whole = quiet(experiment, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit_experiment(experiment, tmp_path / "cut", Killed(steps))
    cut = quiet(experiment, tmp_path / "cut")
    ours, theirs = (safetensors.torch.load_file(run.path / STUDENT_WEIGHTS) for run in (cut, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for one, other in zip(cut.read_metrics(), whole.read_metrics(), strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_the_run_opens_as_start_and_as_teacher(pretraining: Make, images: Path, tmp_path: Path) -> None:
    run = quiet(pretraining(epochs=1), tmp_path / "run")
    opened = open_model(str(run.path))
    assert (opened.num_classes, opened.image_size, opened.trained) == (0, 16, True)
    assert not any(name.startswith(("head", "decoder")) for name in opened.module.state_dict())
    assert opened.input is not None
    training = Training(epochs=1, batch_size=16, threads=1, device="cpu")
    student = Experiment("test", str(run.path), data=Data(f"npz:{images}"), training=training)
    trained = quiet(student, tmp_path / "student")
    assert trained.summary is not None
    assert trained.summary["student"]["test"]["count"] == 24
    assert open_model(str(trained.path)).num_classes == 3
    pupil = replace(student, student="resnet8", teacher=str(run.path), methods=(AttentionTransfer(),))
    taught = quiet(pupil, tmp_path / "taught")
    assert taught.summary is not None
    assert taught.summary["teacher"] is None
    with pytest.raises(ValueError, match="has no last layer, and kd learns from its logits"):
        quiet(replace(pupil, methods=(SoftTargets(),)), tmp_path / "refused")


def test_a_pretraining_goes_on_from_weights(pretraining: Make, tmp_path: Path) -> None:
    first = quiet(pretraining(epochs=4), tmp_path / "first")
    for number, spec in enumerate((str(first.path), f"{VIT}@{first.path / STUDENT_WEIGHTS}")):
        second = quiet(replace(pretraining(epochs=1), student=spec), tmp_path / f"second{number}")
        assert open_model(str(second.path)).name == VIT
        fresh, gone_on = (run.read_metrics()[0]["terms"]["reconstruction"]["raw"] for run in (first, second))
        # Only the decoder starts anew.
        assert gone_on < fresh


def test_a_classifier_loses_its_last_layer(pretraining: Make, images: Path, tmp_path: Path) -> None:
    training = Training(epochs=1, batch_size=16, threads=1, device="cpu")
    classifier = quiet(Experiment("test", VIT, data=Data(f"npz:{images}"), training=training), tmp_path / "classifier")
    run = quiet(replace(pretraining(epochs=1), student=str(classifier.path)), tmp_path / "run")
    assert open_model(str(run.path)).num_classes == 0


def test_images_without_labels_are_learned_from(
    pretraining: Make, tmp_path: Path, write_images: Callable[[Path], None]
) -> None:
    write_images(tmp_path / "pictures")
    data = Data(f"folder:{tmp_path / 'pictures'}", image_size=16, augment="random-resized-crop")
    run = quiet(replace(pretraining(epochs=1), data=data), tmp_path / "run")
    assert "neighbours" not in run.read_metrics()[-1]
    assert run.summary is not None
    assert run.summary["samples_seen"] == 20
    with pytest.raises(ValueError, match="holds a single class, deep, so that there is nothing to classify"):
        load_data(data, 0)


@pytest.fixture
def write_images() -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from PIL import Image

        for i in range(20):
            place = folder / ("deep/er" if i % 2 else ".")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(
                place / f"{i}.png"
            )

    return write


def test_snapshots_of_the_encoder_are_kept(pretraining: Make, tmp_path: Path) -> None:
    run = quiet(pretraining(snapshot_epochs=(0, 1)), tmp_path / "run")
    assert list(run.snapshots) == [0, 1]
    assert open_model(str(run.snapshots[1])).num_classes == 0


def test_what_cannot_be_pretrained_is_refused_before_training(pretraining: Make, tmp_path: Path) -> None:
    for student, words in (
        ("resnet8", "vision transformers of timm"),
        ("timm:resnet10t", "vision transformers of timm"),
        (VIT.replace("img_size=16", "img_size=32"), "written with img_size=32, but .* images of 16 pixels"),
        (VIT.replace("patch_size=4", "patch_size=5"), "do not tile images of 16×16"),
    ):
        with pytest.raises(ValueError, match=words):
            quiet(replace(pretraining(), student=student), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="neither a teacher nor methods"):
        replace(pretraining(), teacher="resnet8", methods=(AttentionTransfer(),))


def test_experiments_without_pretraining_read_as_before() -> None:
    experiment = Experiment("test", "resnet8")
    old = {name: value for name, value in to_json(experiment).items() if name != "pretraining"}
    assert from_json(json.loads(json.dumps(old))) == experiment
    assert to_json(experiment)["pretraining"] is None


def test_votes_are_those_of_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    known, asked = torch.randn(40, 6, generator=generator), torch.randn(15, 6, generator=generator)
    labels = torch.randint(4, (40,), generator=generator)
    expected: list[int] = []
    for feature in asked.double():
        cosines = [float(feature @ other / feature.norm() / other.norm()) for other in known.double()]
        votes = [0.0] * 4
        for i in sorted(range(40), key=lambda i: -cosines[i])[:7]:
            votes[int(labels[i])] += float(torch.tensor(cosines[i] / 0.07).exp())
        expected.append(votes.index(max(votes)))
    assert nearest_classes(known, labels, asked, 4, neighbours=7).tolist() == expected


def test_scale_means_nothing_and_few_images_all_vote() -> None:
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([2, 0, 0])
    asked = torch.tensor([[100.0, 1.0], [0.0, 0.01]])
    assert nearest_classes(known, labels, asked, 3).tolist() == [2, 0]
