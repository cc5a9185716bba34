"""The recipes of papers say what the papers and their authors' code say."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from torch import nn

from attention_transfer.experiment import Experiment
from attention_transfer.methods import (
    AttentionLinks,
    AttentionTransfer,
    ClassAttention,
    DistillationToken,
    MultiHeadGraph,
)
from attention_transfer.models import MODELS, build, describe
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.naming import parse_name, split_weights
from attention_transfer.recipes import (
    RECIPES,
    attention_links,
    attention_transfer,
    class_attention,
    class_attention_distillation,
    links_in_small,
)
from attention_transfer.recipes.photographs import IMAGENET
from attention_transfer.recipes.tables import TABLES
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


# ---------------- the recipes of attention links say what their paper says

LINKS = [experiment for experiment, _ in attention_links.recipes()]
SMALL = [experiment for experiment, _ in links_in_small.recipes()]
LINKED = [each for each in LINKS if any(isinstance(method, AttentionLinks) for method in each.methods)]


def links(experiment: Experiment) -> AttentionLinks:
    (method,) = [each for each in experiment.methods if isinstance(each, AttentionLinks)]
    return method


@cache
def sketched_network(name: str) -> nn.Module:
    """A network without memory."""
    parsed = parse_name(split_weights(name)[0])
    return outline(lambda: timm.create_model(parsed.inner, num_classes=100, **dict(parsed.arguments)))


def test_the_tables_of_links_are_complete():
    def count(beginning: str) -> int:
        return sum(each.recipe.startswith(f"links-{beginning}") for each in LINKS)

    shares = (5, 10, 30, 50, 100)
    assert [count(f"table2-{share}-") for share in shares] == [3] * 5
    assert [count(f"table3-{share}-") for share in shares] == [2] * 5
    assert [count(f"table{table}") for table in ("4", "5", "6", "a", "b", "e")] == [2, 11, 2, 3, 6, 1]
    assert {each.data.train_fraction for each in LINKS} == {None, 0.05, 0.1, 0.3, 0.5}


def test_everything_but_the_term_is_deits():
    for experiment in LINKS:
        settings, data = experiment.optimisation, experiment.data
        assert (settings.optimizer, settings.weight_decay, settings.warmup_epochs) == ("adamw", 0.05, 5)
        assert settings.learning_rate == pytest.approx(5e-4 * experiment.training.batch_size / 512)
        assert (data.image_size, data.label_smoothing) == (224, 0.1)
        weak = "-weak-" in experiment.recipe
        assert data.auto_augment == (None if weak else "rand-m9-mstd0.5-inc1")
        assert (data.mixup, data.cutmix, data.random_erasing) == ((None,) * 3 if weak else (0.8, 1.0, 0.25))
        assert data.augment == ("crop-flip" if weak else "random-resized-crop")
    lengths = {each.recipe: each.training.epochs for each in LINKS if each.training.epochs != 300}
    assert lengths == {"links-tablea-deit": 7200, "links-tablee": 240}


def test_small_shares_have_the_small_batch_but_not_in_the_ablation():
    for each in LINKS:
        name = each.recipe.removeprefix("links-")
        small = name.startswith(("table2-5-", "table2-10-", "table6", "tableb"))
        assert each.training.batch_size == (512 if small else 1024), name


def test_the_term_has_the_papers_weight_and_decay():
    for experiment in LINKED:
        method = links(experiment)
        assert method.weight == 2000
        last = 0.99**300 if "decay-fixed" in experiment.recipe else 0.99**200 * 0.98**100
        assert method.schedule.factor(300) == pytest.approx(last)


def test_selective_links_are_alpha_on_parts_and_beta_on_all_of_imagenet():
    chosen = {each.recipe.removeprefix("links-"): links(each).links for each in LINKED}
    assert {name for name, value in chosen.items() if value == "beta"} == {"table3-100-selective"}
    alpha = {f"table2-{share}-links" for share in (5, 10, 30, 50)}
    alpha |= {f"table3-{share}-selective" for share in (5, 10, 30, 50)} | {"decay-fixed"}
    assert {name for name, value in chosen.items() if value == "alpha"} == alpha
    assert set(chosen.values()) == {"alpha", "beta", "full"}


def test_the_default_pair_is_the_papers():
    experiment = RECIPES["links-table2-5-links"]()
    assert experiment.teacher == "timm:efficientnet_b3@pretrained"
    assert sum(p.numel() for p in sketched_network(experiment.teacher).parameters()) == pytest.approx(12.2e6, rel=0.12)
    student = sketched_network(experiment.student)
    assert sum(p.numel() for p in student.parameters()) == pytest.approx(22e6, rel=0.05)
    assert (len(student.blocks), student.blocks[0].attn.num_heads, student.num_prefix_tokens) == (12, 6, 2)  # pyright: ignore


def test_labels_share_their_weight_with_a_token_alone():
    for each in (*LINKS, *SMALL):
        token = any(isinstance(method, DistillationToken) for method in each.methods)
        assert each.task_weight == (0.5 if token else 1)


def test_augmentation_is_all_that_differs_between_the_halves_of_table_5():
    for name in ("ce", "links", "soft", "hard", "links-hard"):
        strong, weak = (RECIPES[f"links-table5-{which}-{name}"]() for which in ("strong", "weak"))
        assert replace(weak, recipe=strong.recipe, data=strong.data) == strong


def test_small_runs_of_one_set_differ_in_the_method_only():
    groups: dict[str, list[Experiment]] = {}
    for each in SMALL:
        groups.setdefault(each.recipe.rpartition("-")[0], []).append(each)
    assert {name: len(group) for name, group in groups.items()} == {
        "links-cub200": 2,
        "links-cifar100-5-percent": 3,
        "links-cifar100-10-percent": 3,
    }
    for group in groups.values():
        assert len({each.data for each in group}) == 1
        assert len({each.training for each in group}) == 1
        assert len({each.optimisation for each in group}) == 1
        plain = {each.student.replace(", distillation_token=True", "") for each in group}
        assert len(plain) == 1
        assert sum(p.numel() for p in sketched_network(plain.pop()).parameters()) < 2_000_000


def test_small_links_lose_as_much_of_their_weight_as_the_papers():
    for each in SMALL:
        if each.methods and isinstance(each.methods[0], AttentionLinks):
            epochs = each.training.epochs
            assert links(each).schedule.factor(epochs) == pytest.approx(0.99**200 * 0.98**100, rel=0.1)
            assert links(each).weight == pytest.approx(2000 * 64 / 196)


# ---------------- the recipes of multi-head graph distillation say what its authors' code says


def method_of(experiment: Experiment) -> MultiHeadGraph:
    (method,) = experiment.methods
    assert isinstance(method, MultiHeadGraph)
    return method


def test_the_authors_settings_are_kept() -> None:
    experiment = RECIPES["mhgd-cifar100-resnet32x4-resnet8x4"]()
    method, optimisation = method_of(experiment), experiment.optimisation
    assert (method.weight, method.heads, method.student_vectors, method.graph_epochs) == (1.0, 8, 4, 40)
    assert (method.graph_learning_rate, method.direction, method.reduction) == (0.1, "student-first", "sum")
    assert (experiment.training.epochs, experiment.training.batch_size, experiment.epochs) == (100, 128, 140)
    assert (optimisation.optimizer, optimisation.momentum, optimisation.weight_decay) == ("nesterov", 0.9, 5e-4)
    assert (optimisation.learning_rate, optimisation.steps, optimisation.step_factor) == (0.1, (0.3, 0.6, 0.8), 0.1)
    assert experiment.data.augment == "reflect-crop-flip"


def test_heads_and_layers_are_varied_and_nothing_else() -> None:
    base = RECIPES["mhgd-heads-8"]()
    assert method_of(base).heads == 8
    for heads in (1, 16):
        varied = RECIPES[f"mhgd-heads-{heads}"]()
        assert replace(varied, recipe=base.recipe, methods=(replace(method_of(varied), heads=8),)) == base
    for layers in (2, 3, 4):
        assert len(method_of(RECIPES[f"mhgd-layers-{layers}"]()).stages or ()) == layers


@pytest.mark.parametrize(
    ("learned", "prefix"),
    [("cifar100-resnet56-resnet20-mhgd", "cifar100-resnet56-resnet20-mhgd"), ("digits-mhgd", "mhgd-digits")],
)
def test_controls_differ_in_their_graph_alone(learned: str, prefix: str) -> None:
    base = RECIPES[learned]()
    for graph in ("random", "constant", "identity", "similarity"):
        control = RECIPES[f"{prefix}-{graph}"]()
        assert method_of(control).graph == graph
        assert replace(control, recipe=base.recipe, methods=(replace(method_of(control), graph="learned"),)) == base


@pytest.mark.parametrize("table", ["mhgd-controls", "mhgd-digits"])
def test_every_student_of_a_table_sees_equally_many_images(table: str) -> None:
    experiments = [RECIPES[cell.recipe]() for cell in TABLES[table].cells]
    assert len(experiments) == 7
    assert (
        len({(each.data, each.optimisation, replace(each.training, snapshot_epochs=None)) for each in experiments}) == 1
    )


def test_the_comparison_is_under_one_protocol_and_has_its_published_numbers() -> None:
    table = TABLES["mhgd-comparison"]
    experiments = [RECIPES[cell.recipe]() for cell in table.cells]
    assert len({(each.data, each.optimisation, each.training, each.student) for each in experiments}) == 1
    assert {cell.row for cell in table.cells} == {row for row, _ in table.numbers} - {"teacher"}


@pytest.mark.parametrize(
    ("table", "setting", "rows"),
    [("mhgd-heads", "heads", ("ce", "1", "8", "16")), ("mhgd-layers", "stages", ("ce", "2", "3", "4"))],
)
def test_one_setting_varies_and_nothing_else(table: str, setting: str, rows: tuple[str, ...]) -> None:
    assert TABLES[table].rows == rows
    alone, *varied = (RECIPES[cell.recipe]() for cell in TABLES[table].cells)
    assert len({(each.data, each.optimisation, each.training, each.student) for each in (alone, *varied)}) == 1
    assert len({replace(each, recipe="", methods=()) for each in varied}) == 1
    assert len({method_of(each) for each in varied}) == 3
    usual = getattr(MultiHeadGraph(), setting)
    assert {replace(method_of(each), **{setting: usual}) for each in varied} == {MultiHeadGraph()}


def test_published_numbers_of_heads_stand_in_their_rows() -> None:
    table = TABLES["mhgd-heads"]
    assert {cell.row for cell in table.cells} == {row for row, _ in table.numbers}
    assert {column for _, column in table.numbers} == set(table.columns)
