"""The recipes for vision transformers say what their paper, its authors' code and MAE's say."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import timm
from timm.models import VisionTransformer

from attention_transfer.experiment import Experiment
from attention_transfer.methods import AttentionCopy, AttentionDistillation
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.naming import parse_name, split_weights
from attention_transfer.models.timm_source import without_source
from attention_transfer.recipes import RECIPES, vision_transformers

PAPER = [experiment for experiment, _ in vision_transformers.recipes()]
DISTILLED = {"vit_base": 9, "vit_large": 18, "vit_huge": 24}


def named(name: str) -> Experiment:
    return RECIPES[name]()


def copying() -> list[Experiment]:
    return [each for each in PAPER if any(isinstance(method, AttentionCopy) for method in each.methods)]


def distilling() -> list[Experiment]:
    return [each for each in PAPER if each.methods and each not in copying()]


@cache
def sketched(name: str) -> VisionTransformer:
    """A network without memory."""
    parsed = without_source(parse_name(name))
    network = outline(lambda: timm.create_model(parsed.inner, **dict(parsed.arguments)))
    assert isinstance(network, VisionTransformer)
    return network


def drop_path(spec: str | None) -> float:
    assert spec is not None
    return float(parse_name(split_weights(spec)[0]).arguments.get("drop_path_rate", 0.0))


def test_the_tables_and_figures_are_complete():
    def count(beginning: str, ending: str = "") -> int:
        return sum(each.recipe.startswith(beginning) and each.recipe.endswith(ending) for each in PAPER)

    for size in ("base", "large", "huge"):
        for what in (f"{size}-scratch", f"mae-{size}-fine-tune", f"mae-{size}-copy", f"mae-{size}-distil"):
            assert f"vit-{what}" in RECIPES
    assert count("vit-mae-large-copy-mean-") == 4
    assert count("vit-mix-") == 4
    assert [count("vit-", f"-inat{year}") for year in (2017, 2018, 2019)] == [4, 4, 4]
    assert [count(f"vit-{key}-") for key in ("mocov3", "clip", "dino", "flip", "untrained")] == [3, 3, 3, 2, 2]


def test_images_are_changed_and_mixed_as_in_the_paper():
    for experiment in PAPER:
        data = experiment.data
        assert (data.auto_augment, data.random_erasing) == ("rand-m9-mstd0.5-inc1", 0.25)
        assert (data.mixup, data.cutmix, data.label_smoothing) == (0.8, 1.0, 0.1)
        assert (data.image_size, data.augment) == (224, "random-resized-crop")
        assert experiment.optimisation.optimizer == "adamw"
        assert (experiment.optimisation.schedule, experiment.optimisation.cosine_after_warmup) == ("cosine", True)
        assert not experiment.optimisation.decay_norm_and_bias


def test_copies_follow_the_papers_recipe():
    assert len(copying()) == 22
    for experiment in copying():
        settings, training = experiment.optimisation, experiment.training
        # 1e-3 for 256 images; the end of the cosine is absolute.
        assert (settings.learning_rate, settings.min_learning_rate) == (pytest.approx(8e-3), 2e-3)
        assert (settings.weight_decay, settings.layer_decay, settings.warmup_epochs) == (0.05, 0.75, 5)
        assert (training.batch_size, training.epochs, training.ema_decay) == (2048, 100, 0.9999)
        assert drop_path(experiment.student) == 0
        partial = experiment.methods[0].layers != Layers()  # pyright: ignore[reportAttributeAccessIssue]
        assert settings.betas == (0.9, 0.95 if partial else 0.999)


def test_distillations_follow_the_papers_recipe():
    assert len(distilling()) == 20
    for experiment in distilling():
        settings, training = experiment.optimisation, experiment.training
        assert (settings.learning_rate, settings.weight_decay) == (pytest.approx(8e-4), 0.3)
        assert (settings.betas, settings.layer_decay, settings.warmup_epochs) == ((0.9, 0.95), None, 20)
        assert (training.batch_size, training.epochs, training.ema_decay) == (2048, 200, 0.9999)
        (method,) = experiment.methods
        if isinstance(method, AttentionDistillation):
            network = split_weights(experiment.student)[0].removeprefix("timm:")
            assert method.layers.first == DISTILLED["_".join(network.split("_")[:2])]
            assert (method.same_drop_path, method.head_reduction, method.temperature) == (True, "mean", 1)
            assert drop_path(experiment.student) == drop_path(experiment.teacher)
    assert drop_path(named("vit-mae-large-distil").student) == 0.2


def test_only_the_main_result_has_the_larger_weight():
    weights = {each.recipe: each.methods[0].weight for each in distilling()}
    assert {name for name, weight in weights.items() if weight == 3} == {"vit-mae-large-distil"}
    assert {weight for name, weight in weights.items() if name != "vit-mae-large-distil"} == {1}


@pytest.mark.parametrize(
    ("name", "learning_rate", "batch", "epochs", "paths"),
    [
        ("vit-base-scratch", 1.6e-3, 4096, 300, 0.1),
        ("vit-large-scratch", 1.6e-3, 4096, 200, 0.2),
        ("vit-huge-scratch", 1.6e-3, 4096, 200, 0.2),
        ("vit-mae-base-fine-tune", 2e-3, 1024, 100, 0.1),
        ("vit-mae-large-fine-tune", 4e-3, 1024, 50, 0.2),
        ("vit-mae-huge-fine-tune", 4e-3, 1024, 50, 0.3),
    ],
)
def test_scratch_and_fine_tuning_are_those_of_mae(
    name: str, learning_rate: float, batch: int, epochs: int, paths: float
):
    experiment = named(name)
    settings, training = experiment.optimisation, experiment.training
    assert settings.learning_rate == pytest.approx(learning_rate)
    assert (training.batch_size, training.epochs, drop_path(experiment.student)) == (batch, epochs, paths)
    if name.endswith("scratch"):
        assert (settings.weight_decay, settings.betas, settings.warmup_epochs) == (0.3, (0.9, 0.95), 20)
        assert (settings.layer_decay, training.ema_decay) == (None, 0.9999)
    else:
        assert (settings.weight_decay, settings.betas, settings.warmup_epochs) == (0.05, (0.9, 0.999), 5)
        assert settings.layer_decay == (0.65 if "base" in name else 0.75)


def test_inaturalist_differs_in_its_images_only():
    for what in ("large-scratch", "mae-large-fine-tune", "mae-large-copy"):
        here, there = named(f"vit-{what}-inat2018"), named(f"vit-{what}")
        assert here.data.name == "inaturalist-2018"
        assert replace(here, recipe=there.recipe, data=there.data) == there
        assert replace(here.data, name=there.data.name) == there.data


def test_students_have_the_published_sizes():
    """ViT-B and ViT-L with the norm after the average, as the authors' code counts them."""
    for size, parameters in (("base", 86_567_656), ("large", 304_326_632)):
        network = sketched(split_weights(named(f"vit-mae-{size}-copy").student)[0])
        assert sum(each.numel() for each in network.parameters()) == parameters


@pytest.mark.parametrize("name", [each.recipe for each in PAPER if each.teacher is not None])
def test_tiny_networks_still_fit_each_other_and_their_recipe(name: str):
    experiment, tiny = named(name), named(name).tiny()
    assert tiny.methods == experiment.methods
    assert tiny.training.ema_decay == experiment.training.ema_decay
    # Digits are no files that could be decoded in one way or another.
    left_out: dict[str, Any] = {"name": "", "image_size": None, "num_workers": 0, "decoding": None}
    assert replace(tiny.data, train_limit=None, test_limit=None, **left_out) == replace(experiment.data, **left_out)
    assert tiny.optimisation.warmup_epochs == experiment.optimisation.warmup_epochs / experiment.training.epochs
    assert tiny.teacher is not None
    student, teacher = sketched(tiny.student), sketched(tiny.teacher)
    # Layers, heads and width; patches too, unless maps are resampled.
    assert len(student.blocks) == len(teacher.blocks) == len(sketched(split_weights(experiment.student)[0]).blocks)
    assert student.blocks[0].attn.num_heads == teacher.blocks[0].attn.num_heads  # pyright: ignore
    assert (student.embed_dim, student.num_prefix_tokens) == (teacher.embed_dim, teacher.num_prefix_tokens)
    patches = [network.patch_embed.num_patches for network in (student, teacher)]
    assert (patches[0] == patches[1]) != getattr(tiny.methods[0], "resample", False)
