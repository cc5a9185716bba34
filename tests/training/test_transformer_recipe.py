"""The recipe by which transformers are fine-tuned: all of it together resumes exactly, and each part does its work."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from tests.training.conftest import Make
from tests.training.test_fit import KilledError, Killer, rows, silent
from torch import nn

from attention_transfer import (
    METHODS,
    MODELS,
    AttentionTransfer,
    ClassAttention,
    Data,
    Experiment,
    GradientAttention,
    Method,
    SoftTargets,
    Term,
)
from attention_transfer.batch import Batch
from attention_transfer.methods import Needs, Observed, Reads
from attention_transfer.models import Description
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import prepare

MIXED = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}


def vit(classes: int, **others: Any) -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        embed_dim=16,
        depth=3,
        num_heads=2,
        num_classes=classes,
        class_token=False,
        global_pool="avg",
        **others,
    )


@pytest.fixture
def recipe(make: Make, images: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Everything at once, three epochs, taught by soft targets."""
    monkeypatch.setitem(MODELS, "vit", lambda classes: vit(classes, drop_path_rate=0.4))
    return make(
        student="vit",
        teacher="resnet8",
        methods=(SoftTargets(),),
        data=Data(
            f"npz:{images}",
            augment="crop-flip",
            auto_augment="rand-m9-mstd0.5-inc1",
            random_erasing=0.25,
            **MIXED,
        ),
        optimisation={
            "optimizer": "adamw",
            "learning_rate": 2e-3,
            "betas": (0.9, 0.95),
            "weight_decay": 0.05,
            "decay_norm_and_bias": False,
            "layer_decay": 0.75,
            "warmup_epochs": 1,
            "cosine_after_warmup": True,
            "min_learning_rate": 1e-4,
        },
        training={"epochs": 3, "checkpoint_every_steps": 2, "ema_decay": 0.7},
    )


@pytest.mark.parametrize("killed_after", [4, 7])
def test_an_interrupted_run_of_the_recipe_ends_with_the_same_student_bit_for_bit(
    recipe: Experiment, tmp_path: Path, killed_after: int
) -> None:
    fit_experiment(recipe, tmp_path / "whole", silent())
    with pytest.raises(KilledError):
        fit_experiment(recipe, tmp_path / "broken", Killer(killed_after))
    torch.manual_seed(99)
    fit_experiment(recipe, tmp_path / "broken", silent())
    whole, broken = (tmp_path / name / "student.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")


def test_metrics_show_the_full_rate_and_the_loss_of_mixed_labels(recipe: Experiment, tmp_path: Path) -> None:
    fit_experiment(recipe, tmp_path / "run", silent())
    first, second, last = rows(tmp_path / "run")
    # The rate of the last step: 2/3 of the warm-up, then the cosine.
    assert first["learning_rate"] == pytest.approx(2e-3 * 2 / 3)
    assert 1e-4 < last["learning_rate"] < second["learning_rate"] < 2e-3
    # No student can come below the entropy of the labels, which is some of log 3.
    assert last["train"]["loss"] > 0.2
    summary = RunFolder(tmp_path / "run").summary
    assert summary is not None
    assert summary["student"]["test"]["count"] == 24


def test_drop_path_draws_anew_in_each_step(recipe: Experiment) -> None:
    """Seeded by (seed, epoch, step, rank) and not by the past, and not alike in all steps either."""
    prepared = prepare(replace(recipe, data=Data(recipe.data.name)))
    image = next(iter(prepared.train.epoch(0))).image
    from attention_transfer.training.update import seed_step

    def logits(step: int, rank: int = 0) -> torch.Tensor:
        seed_step(recipe.seed, 0, step, rank)
        return prepared.distiller.student.train()(image)

    assert torch.equal(logits(3), logits(3))
    assert not torch.equal(logits(3), logits(4))
    assert not torch.equal(logits(3), logits(3, rank=1))


@dataclass(frozen=True)
class ByPlace(Method):
    """Goes by the places of images."""

    key: ClassVar[str] = "by-place"

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        return Reads(batch=Needs(index=True))

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        assert student.logits is not None
        return {"by-place": Term(student.logits.mean())}


def test_a_method_that_goes_by_places_is_refused_beside_mixed_images_alone(
    make: Make, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "by-place", ByPlace)
    mixed = Data(f"npz:{images}", **MIXED)
    with pytest.raises(ValueError, match=r"by-place goes by the dataset index .* leave out --mixup and --cutmix, or"):
        prepare(make(methods=(ByPlace(),), data=mixed))
    prepare(make(methods=(ByPlace(),), data=replace(mixed, mixup=None, cutmix=None)))


@pytest.mark.parametrize("method", [AttentionTransfer, SoftTargets, ClassAttention, GradientAttention])
def test_methods_learn_from_mixed_batches(make: Make, images: Path, method: type[Method]) -> None:
    """None of them wants class numbers: those that read labels take probabilities."""
    prepared = prepare(make(methods=(method(),), data=Data(f"npz:{images}", **MIXED)))
    batch = next(iter(prepared.train.epoch(0)))
    assert batch.label is not None
    assert batch.label.shape == (16, 3)
    out = prepared.distiller(batch.image, batch.label, batch.index)
    assert torch.isfinite(out.loss)
    assert out.terms["ce"].value > 0
