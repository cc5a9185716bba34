"""Settings are refused where they are given, their tiny form is valid, and phases are counted."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_transfer import Data, Experiment, Optimisation, Training
from attention_transfer.data.sources.cluttered_digits import NUM_IMAGES
from attention_transfer.experiment import from_json, to_json
from attention_transfer.methods import Phase
from attention_transfer.phases import Stretch, num_epochs, said, stretch_of, stretches
from attention_transfer.report.groups import MeasuredRun
from attention_transfer.runs import RecordedRun, RunFolder, find_runs
from attention_transfer.training.prepare import load_data

RUNS = Path(__file__).parents[1] / "docs" / "results" / "runs"


@pytest.mark.parametrize(
    ("make", "fields", "words"),
    [
        (Data, {"train_classes": 0}, "train_classes must be at least 1, not 0"),
        (Data, {"train_fraction": 0.0}, "train_fraction must be 0 < f ≤ 1, .* not 0.0"),
        (Data, {"train_fraction": 1.01}, "train_fraction must be 0 < f ≤ 1, .* not 1.01"),
        (Data, {"train_fraction": float("nan")}, "train_fraction must be 0 < f ≤ 1, .* not nan"),
        (Data, {"train_limit": 0}, "train_limit must be at least 1, not 0"),
        (Data, {"validation_fraction": 1.0}, "validation_fraction must be 0 ≤ f < 1, .* not 1.0"),
        (Data, {"validation_fraction": float("nan")}, "validation_fraction must be 0 ≤ f < 1, .* not nan"),
        (Data, {"image_size": 7}, "image_size must be a whole number of pixels from 8 to 16,384, not 7"),
        (Training, {"threads": 100_000}, "threads must be between 1 and 1024, .* not 100000"),
        (partial(Experiment, "own", "resnet20"), {"seed": 2**64}, r"seed must be .* of 64 bits, below 2\^63, not 1844"),
        (partial(Experiment, "own", "resnet20"), {"seed": -(2**63) - 1}, "seed must be a whole number of 64 bits"),
        (Training, {"ema_decay": 1.0}, "ema_decay must be 0 < d < 1, not 1.0"),
        (Training, {"snapshot_epochs": (2, 1)}, r"snapshot_epochs must be numbers of .* ascending, not \(2, 1\)"),
        (Training, {"snapshot_epochs": (1, 1)}, "snapshot_epochs must be numbers of finished epochs, at least 0"),
        (Training, {"snapshot_epochs": (-1, 1)}, "snapshot_epochs must be numbers of finished epochs, at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[..., Any], fields: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        make(**fields)


def test_snapshots_lie_within_the_run():
    training = Training(epochs=3, snapshot_epochs=(0, 3))
    assert Experiment("test", "resnet8", training=training).epochs == 3
    with pytest.raises(ValueError, match=r"snapshot_epochs must be within the 2 epochs of the run .*, not 3"):
        Experiment("test", "resnet8", training=replace(training, epochs=2))


def test_new_settings_survive_json():
    experiment = Experiment(
        "test",
        "resnet8",
        data=Data(
            train_classes=3,
            train_fraction=0.5,
            augment="trivial-augment",
            auto_augment="rand-m9-mstd0.5-inc1",
            random_erasing=0.25,
            mixup=0.8,
            cutmix=1.0,
            label_smoothing=0.1,
        ),
        optimisation=Optimisation(optimizer="adamw", betas=(0.9, 0.95), layer_decay=0.75, cosine_after_warmup=True),
        training=Training(epochs=4, snapshot_epochs=(0, 4), ema_decay=0.999),
    )
    assert from_json(json.loads(json.dumps(to_json(experiment)))) == experiment


def test_a_run_of_an_older_version_reads_as_one_with_defaults():
    content = to_json(Experiment("test", "resnet8"))
    del content["data"]["train_classes"], content["data"]["train_fraction"], content["training"]["snapshot_epochs"]
    assert from_json(content) == Experiment("test", "resnet8")


@pytest.mark.parametrize("run", find_runs([RUNS]), ids=lambda run: run.path.relative_to(RUNS).as_posix())
def test_a_committed_run_would_group_with_the_same_experiment_written_today(run: RecordedRun, tmp_path: Path):
    """A new field must default to None, which groups leave out: else new runs never join those of before."""
    with RunFolder.create_or_resume(tmp_path / "today", to_json(from_json(run.experiment))) as today:
        assert MeasuredRun.read(today).settings == MeasuredRun.read(run).settings


@pytest.mark.parametrize(
    "data",
    [
        Data("cifar100", train_classes=50),
        Data("cifar100", train_classes=1, train_fraction=0.0001),
        Data("cifar10", train_fraction=0.1, augment="reflect-crop-flip"),
        Data("cifar100", train_classes=100, augment="trivial-augment", validation_fraction=0.1),
        Data("folder:$IMAGENET", num_workers=8, auto_augment="rand-m9-mstd0.5-inc1", mixup=0.8, label_smoothing=0.1),
    ],
)
def test_the_tiny_form_keeps_what_it_can_of_the_selection(data: Data, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(NUM_IMAGES, "test", 100)
    tiny = Experiment("test", "resnet8", data=data, training=Training(epochs=9, snapshot_epochs=(0, 4, 9))).tiny()
    assert tiny.training.snapshot_epochs == (0, 1)
    assert tiny.data.augment == data.augment
    assert (tiny.data.changes, tiny.data.mixing) == (data.changes, data.mixing)
    assert (tiny.data.num_workers, tiny.data.validation_fraction) == (0, 0.0)
    assert tiny.data.train_fraction == (data.train_fraction and max(data.train_fraction, 0.01))
    dataset = load_data(tiny.data, 0)
    assert 2 <= len(dataset.train) <= 64
    assert (dataset.unseen is None) == (data.train_classes is None)


def test_a_tiny_transformer_is_narrow_and_keeps_its_share_of_warm_up():
    experiment = Experiment(
        "test",
        "timm:vit_tiny_patch16_224@pretrained",
        teacher="timm:vit_tiny_patch16_224.augreg_in21k@pretrained",
        data=Data(image_size=224),
        optimisation=Optimisation(warmup_epochs=5),
        training=Training(epochs=100),
    )
    tiny = experiment.tiny()
    assert tiny.student == "timm:vit_tiny_patch16_224(img_size=64, patch_size=9, embed_dim=24)"
    assert tiny.teacher == "timm:vit_tiny_patch16_224.augreg_in21k(img_size=64, patch_size=9, embed_dim=24)"
    assert tiny.optimisation.warmup_epochs == 0.05


# ---------------------------------------------------------------- phases

BEFORE, MAIN, AFTER = Phase("before", epochs=3, title="hints"), Phase("main"), Phase("after", epochs=2)


def test_only_one_phase_may_be_open_ended() -> None:
    assert stretches((BEFORE, MAIN), 5) == (Stretch(BEFORE, 0, 3), Stretch(MAIN, 3, 8))
    with pytest.raises(ValueError, match="only one phase"):
        stretches((MAIN, Phase("b")), 5)


def test_epochs_belong_to_phases_in_order_and_the_open_one_has_no_end() -> None:
    names = [stretch_of((BEFORE, MAIN), epoch).phase.name for epoch in (0, 2, 3, 1000)]
    assert names == ["before", "before", "main", "main"]
    assert stretch_of((BEFORE, MAIN), 1000).first == 3
    assert stretch_of((BEFORE, MAIN), np.int64(2)).phase == BEFORE


def test_a_phase_after_the_main_one_is_found_where_its_epochs_are_said() -> None:
    phases = (BEFORE, MAIN, AFTER)
    assert [stretch_of(phases, epoch, 4).phase.name for epoch in (2, 3, 6, 7, 8)] == [
        "before",
        "main",
        "main",
        "after",
        "after",
    ]
    assert stretch_of(phases, 2).phase == BEFORE
    with pytest.raises(ValueError, match=r"'main' has no length of its own, .* set_epoch\(epoch, epochs=...\)"):
        stretch_of(phases, 3)


@pytest.mark.parametrize(
    ("epoch", "epochs", "words"),
    [
        (-1, None, "epoch must be at least 0, the first one, not -1"),
        (9, 4, "epoch 9 comes after the training, whose phases have 9 epochs together"),
        (1.0, None, "epoch must be a whole number, not 1.0"),
        (True, None, "epoch must be a whole number, not True"),
        ("1", None, "epoch must be a whole number, not '1'"),
        (1, 4.5, "epochs must be a whole number, not 4.5"),
    ],
)
def test_what_is_no_epoch_of_the_training_is_refused(epoch: int, epochs: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stretch_of((BEFORE, MAIN, AFTER), epoch, epochs)


def test_a_training_of_ended_phases_alone_ends() -> None:
    assert num_epochs((BEFORE, AFTER), 100) == 5
    assert stretch_of((BEFORE, AFTER), 4).phase == AFTER
    with pytest.raises(ValueError, match="epoch 5 comes after the training"):
        stretch_of((BEFORE, AFTER), 5)


def test_all_epochs_are_those_of_the_training_and_of_its_other_phases() -> None:
    assert num_epochs((BEFORE, MAIN, AFTER), 100) == 105
    assert num_epochs((MAIN,), np.int32(7)) == 7
    for wrong in (0, -3, 1.5, "100"):
        with pytest.raises(ValueError, match="epochs must be"):
            num_epochs((MAIN,), wrong)  # pyright: ignore[reportArgumentType]


def test_lengths_are_said_in_words() -> None:
    heads = Phase("graph", epochs=40, title="graph heads")
    assert said((heads, MAIN), 1) == "40 epochs of graph heads, then 1"
    assert said((Phase("a", epochs=1), MAIN, AFTER), 5) == "1 epoch of a, then 5, then 2 epochs of after"
    assert said((MAIN, AFTER), 1) == "1 epoch, then 2 epochs of after"
