"""The recipes of the two papers say what the papers and their authors' code say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_transfer.experiment import Experiment
from attention_transfer.methods import AttentionTransfer, ClassAttention
from attention_transfer.models import MODELS, build, describe
from attention_transfer.models.meta_networks import outline
from attention_transfer.recipes import RECIPES, attention_transfer, class_attention, class_attention_distillation
from attention_transfer.recipes.photographs import IMAGENET
from attention_transfer.training.prepare import load_data

# β, r, normalisation and learning rate of the configurations that the authors of CAT-KD publish.
PUBLISHED = {
    "cat-table6-resnet56-resnet20": (0.7, 2, "none", 0.05),
    "cat-table6-resnet110-resnet32": (1.8, 2, "none", 0.05),
    "cat-table6-resnet32x4-resnet8x4": (15.0, 2, "none", 0.05),
    "cat-table6-wrn_40_2-wrn_16_2": (12.0, 2, "none", 0.05),
    "cat-table6-wrn_40_2-wrn_40_1": (1.5, 2, "none", 0.05),
    "cat-table6-vgg13-vgg8": (4.5, 2, "none", 0.05),
    "cat-table5-resnet32x4-shufflenetv1": (600.0, 4, "l2", 0.01),
    "cat-table5-wrn_40_2-shufflenetv1": (80.0, 4, "l2", 0.01),
    "cat-table5-resnet32x4-shufflenetv2": (600.0, 4, "l2", 0.01),
    "cat-table5-resnet50_cifar-mobilenetv2_half": (40.0, 2, "l2", 0.01),
    "cat-table5-vgg13-mobilenetv2_half": (15.0, 2, "l2", 0.01),
    "cat-table7-resnet34-resnet18": (0.5, 4, "none", 0.2),
    "cat-table8-resnet50-mobilenetv1": (10.0, 2, "l2", 0.2),
    "cat-table3-resnet32x4-resnet32x4": (50.0, 2, "l2", 0.05),
    "cat-table3-resnet32x4-resnet32x4-binarised": (300.0, 2, "l2", 0.05),
    "cat-figure4-resnet32x4-resnet8x4-lowest": (300.0, 2, "l2", 0.05),
    "cat-figure4-resnet32x4-resnet32x4-classes": (50.0, 2, "l2", 0.05),
}


def architecture(name: str) -> str:
    return describe(outline(lambda: build(name.partition("@")[0], 10))).architecture


def class_attention_of(experiment: Experiment) -> ClassAttention:
    (method,) = experiment.methods
    assert isinstance(method, ClassAttention)
    return method


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_are_kept(name: str):
    experiment = RECIPES[name]()
    method = class_attention_of(experiment)
    found = (method.weight, method.resolution, method.normalise, experiment.optimisation.learning_rate)
    assert found == PUBLISHED[name]
    assert method.form == "code"


def test_the_tables_are_complete():
    counts = {f"table{n}": count for n, count in enumerate((3, 9, 4, 5, 5, 6, 1, 1, 0, 3, 3, 3, 6, 6), 1)}
    for table, count in counts.items():
        assert sum(name.startswith(f"cat-{table}-") for name in RECIPES) == count, table


@pytest.mark.parametrize("pair", class_attention_distillation.TABLE5 + class_attention_distillation.TABLE6)
def test_maps_are_normalised_where_architectures_differ(pair: class_attention_distillation.Pair):
    alike = architecture(pair.teacher) == architecture(pair.student)
    assert pair.normalise == ("none" if alike else "l2")


def test_class_attention_alone_learns_from_nothing_else():
    experiments = [experiment for experiment, _ in class_attention.recipes() if experiment.methods]
    assert len(experiments) > 20
    for experiment in experiments:
        assert experiment.task_weight == 0
        assert class_attention_of(experiment).normalise == "l2"
        assert experiment.training.batch_size == (512 if experiment.data == IMAGENET else 128)


def test_the_sizes_of_table_2_share_one_weight_in_the_papers_form():
    methods = [class_attention_of(RECIPES[f"cat-table2-resnet32x4-resnet20-{size}x{size}"]()) for size in (8, 4, 2)]
    assert {(method.weight, method.form) for method in methods} == {(12.5, "paper")}
    # The two forms differ by the number of positions: at 2×2 this is the published 50.
    assert methods[-1].weight * 2**2 == class_attention.CAT.weight


def test_both_normalisations_of_tables_13_and_14_differ_in_nothing_else():
    for table in ("table13", "table14"):
        names = [name for name in RECIPES if name.startswith(f"cat-{table}-") and name.endswith("-l2")]
        for name in names:
            normalised, plain = (RECIPES[f"{name.removesuffix('l2')}{kind}"]() for kind in ("l2", "none"))
            ours, theirs = class_attention_of(normalised), class_attention_of(plain)
            assert replace(ours, weight=theirs.weight, normalise="none") == theirs
            assert replace(plain, recipe=normalised.recipe, methods=normalised.methods) == normalised


def test_every_teacher_can_be_had():
    """It has published weights, or a recipe trains it on the same data, or it is to be untrained."""
    trained = {
        (experiment.student.partition("@")[0], experiment.data.name)
        for experiment in (recipe() for recipe in RECIPES.values())
        if not experiment.methods
    }
    for name, recipe in RECIPES.items():
        experiment = recipe()
        # FLIP's weights have to be converted first, those for CIFAR-100 are made by pre-training.
        free = experiment.untrained_teacher or name.startswith(("vit-flip-", "vit-cifar100-"))
        if experiment.teacher is not None and not free and not experiment.teacher.endswith("@pretrained"):
            assert (experiment.teacher, experiment.data.name) in trained, name


@pytest.mark.parametrize("name", ["mobilenetv2_half", "shufflenetv1", "shufflenetv2"])
def test_fragile_networks_learn_at_a_fifth_of_the_rate(name: str):
    rates = {other: RECIPES[f"cifar100-{other}"]().optimisation.learning_rate for other in MODELS}
    assert rates[name] == pytest.approx(rates["resnet20"] / 5)
    assert sorted(rates.values())[3] == rates["resnet20"]


def test_wide_resnets_follow_the_papers_schedule():
    for experiment, _ in attention_transfer.recipes():
        if experiment.data.name != "cifar10":
            continue
        settings = experiment.optimisation
        assert [round(step * experiment.training.epochs) for step in settings.steps] == [60, 120, 160]
        assert (settings.learning_rate, settings.step_factor, settings.weight_decay) == (0.1, 0.2, 5e-4)
        assert experiment.data.augment == "reflect-crop-flip"


def test_only_beside_kd_the_weight_of_attention_decays():
    for experiment, _ in attention_transfer.recipes():
        for method in experiment.methods:
            if isinstance(method, AttentionTransfer):
                decays = method.schedule.factor(199) < 0.02
                assert decays == (len(experiment.methods) == 2)
                assert method.schedule.factor(0) == 1


def test_imagenet_is_found_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    noise = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("cat", "dog"):
            folder = tmp_path / part / kind
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(noise.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    data = RECIPES["cat-table7-resnet34-resnet18"]().data
    monkeypatch.setenv("IMAGENET", str(tmp_path))
    dataset = load_data(data, seed=0)
    assert (dataset.classes, len(dataset.train), len(dataset.test)) == (("cat", "dog"), 4, 4)
    assert dataset.image_size == 224
    monkeypatch.delenv("IMAGENET")
    with pytest.raises(ValueError, match="environment variable that is not set"):
        load_data(data, seed=0)
