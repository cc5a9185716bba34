"""The recipes of attention links say what their paper says."""

from dataclasses import replace
from functools import cache

import pytest
import timm
from torch import nn

from attention_transfer.experiment import Experiment
from attention_transfer.methods import AttentionLinks, DistillationToken
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.naming import parse_name, split_weights
from attention_transfer.recipes import RECIPES, attention_links, links_in_small

PAPER = [experiment for experiment, _ in attention_links.recipes()]
SMALL = [experiment for experiment, _ in links_in_small.recipes()]
LINKED = [each for each in PAPER if any(isinstance(method, AttentionLinks) for method in each.methods)]


def links(experiment: Experiment) -> AttentionLinks:
    (method,) = [each for each in experiment.methods if isinstance(each, AttentionLinks)]
    return method


@cache
def sketched(name: str) -> nn.Module:
    """A network without memory."""
    parsed = parse_name(split_weights(name)[0])
    return outline(lambda: timm.create_model(parsed.inner, num_classes=100, **dict(parsed.arguments)))


def test_the_tables_are_complete():
    def count(beginning: str) -> int:
        return sum(each.recipe.startswith(f"links-{beginning}") for each in PAPER)

    shares = (5, 10, 30, 50, 100)
    assert [count(f"table2-{share}-") for share in shares] == [3] * 5
    assert [count(f"table3-{share}-") for share in shares] == [2] * 5
    assert [count(f"table{table}") for table in ("4", "5", "6", "a", "b", "e")] == [2, 11, 2, 3, 6, 1]
    assert {each.data.train_fraction for each in PAPER} == {None, 0.05, 0.1, 0.3, 0.5}


def test_everything_but_the_term_is_deits():
    for experiment in PAPER:
        settings, data = experiment.optimisation, experiment.data
        assert (settings.optimizer, settings.weight_decay, settings.warmup_epochs) == ("adamw", 0.05, 5)
        assert settings.learning_rate == pytest.approx(5e-4 * experiment.training.batch_size / 512)
        assert (data.image_size, data.label_smoothing) == (224, 0.1)
        weak = "-weak-" in experiment.recipe
        assert data.auto_augment == (None if weak else "rand-m9-mstd0.5-inc1")
        assert (data.mixup, data.cutmix, data.random_erasing) == ((None,) * 3 if weak else (0.8, 1.0, 0.25))
        assert data.augment == ("crop-flip" if weak else "random-resized-crop")
    lengths = {each.recipe: each.training.epochs for each in PAPER if each.training.epochs != 300}
    assert lengths == {"links-tablea-deit": 7200, "links-tablee": 240}


def test_small_shares_have_the_small_batch_but_not_in_the_ablation():
    for each in PAPER:
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
    assert sum(p.numel() for p in sketched(experiment.teacher).parameters()) == pytest.approx(12.2e6, rel=0.12)
    student = sketched(experiment.student)
    assert sum(p.numel() for p in student.parameters()) == pytest.approx(22e6, rel=0.05)
    assert (len(student.blocks), student.blocks[0].attn.num_heads, student.num_prefix_tokens) == (12, 6, 2)  # pyright: ignore


def test_labels_share_their_weight_with_a_token_alone():
    for each in (*PAPER, *SMALL):
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
        assert sum(p.numel() for p in sketched(plain.pop()).parameters()) < 2_000_000


def test_small_links_lose_as_much_of_their_weight_as_the_papers():
    for each in SMALL:
        if each.methods and isinstance(each.methods[0], AttentionLinks):
            epochs = each.training.epochs
            assert links(each).schedule.factor(epochs) == pytest.approx(0.99**200 * 0.98**100, rel=0.1)
            assert links(each).weight == pytest.approx(2000 * 64 / 196)
