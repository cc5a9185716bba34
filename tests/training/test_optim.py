"""Which parameters move at which rate, and when."""

import math

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from attention_transfer import Optimisation, build
from attention_transfer.training.optim import make_optimizer, make_scheduler
from attention_transfer.training.update import peak_learning_rate

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
RECIPE = {"optimizer": "adamw", "learning_rate": 8e-3, "weight_decay": 0.05, "decay_norm_and_bias": False}


def vit(name: str = "vit_tiny_patch16_224", **others: object) -> nn.Module:
    return timm.create_model(name, **(TINY | others))


def by_name(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, object]]:
    """The group that each parameter is in."""
    names = {id(p): name for name, p in module.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"] if id(p) in names}


@pytest.mark.parametrize(
    "student",
    [
        vit(),
        vit("vit_base_patch16_clip_224", class_token=False, global_pool="avg"),
        vit("deit_tiny_distilled_patch16_224"),
        vit("beit_base_patch16_224"),
        vit("eva02_tiny_patch14_224"),
    ],
    ids=["vit", "clip", "deit", "beit", "eva02"],
)
def test_each_layer_has_its_share_of_the_rate_whatever_transformer_of_timm_it_is(student: nn.Module):
    settings = Optimisation(**RECIPE, layer_decay=0.75)
    optimizer = make_optimizer({"student": student}, settings)
    make_scheduler(optimizer, settings, 100, 10).step_update(0)
    groups = by_name(student, optimizer)
    assert groups.keys() == {name for name, p in student.named_parameters() if p.requires_grad}
    # Embeddings are layer 0, blocks 1…3; a norm of all tokens goes with the last, one of pooled tokens with the head.
    fixed = {"norm": 3, "fc_norm": 4, "head": 4, "head_dist": 4}
    if isinstance(student, VisionTransformer) and "norm_pre" not in student.group_matcher()["stem"]:
        # Older versions of timm take the norm before the blocks for the one after them.
        fixed["norm_pre"] = 3
    for name, group in groups.items():
        kind, *rest = name.split(".")
        layer = int(rest[0]) + 1 if kind == "blocks" else fixed.get(kind, 0)
        assert group["lr"] == pytest.approx(8e-3 * 0.75 ** (4 - layer)), name
    assert peak_learning_rate(optimizer) == 8e-3


@pytest.mark.parametrize("layer_decay", [None, 0.75])
def test_vectors_position_embedding_and_class_token_are_not_decayed(layer_decay: float | None):
    student, parts = vit(), nn.ModuleDict({"method": nn.Linear(3, 4)})
    optimizer = make_optimizer({"student": student, "parts": parts}, Optimisation(**RECIPE, layer_decay=layer_decay))
    for name, group in by_name(student, optimizer).items():
        spared = name in ("pos_embed", "cls_token") or student.get_parameter(name).ndim <= 1
        assert group["weight_decay"] == (0.0 if spared else 0.05), name


def test_what_methods_learn_has_groups_of_its_own_at_the_full_rate():
    student, parts = vit(), nn.ModuleDict({"method": nn.Linear(3, 4)})
    settings = Optimisation(**RECIPE, layer_decay=0.5)
    optimizer = make_optimizer({"student": student, "parts": parts}, settings)
    make_scheduler(optimizer, settings, 100, 10).step_update(0)
    groups = by_name(parts, optimizer)
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "method.weight": (8e-3, 0.05),
        "method.bias": (8e-3, 0.0),
    }
    assert not {id(g) for g in groups.values()} & {id(g) for g in by_name(student, optimizer).values()}


def test_everything_may_be_decayed_under_rates_of_layers_too():
    student, parts = vit(), nn.ModuleDict({"method": nn.Linear(3, 4)})
    settings = Optimisation(**(RECIPE | {"decay_norm_and_bias": True}), layer_decay=0.5)
    optimizer = make_optimizer({"student": student, "parts": parts}, settings)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.05}
    assert by_name(parts, optimizer).keys() == {"method.weight", "method.bias"}


def test_a_network_that_does_not_know_its_layers_is_refused():
    with pytest.raises(ValueError, match=r"layer_decay needs a network that knows .*; ResNet does not: .*timm:NAME"):
        make_optimizer({"student": build("resnet8", 5)}, Optimisation(layer_decay=0.75))


def test_betas_reach_adamw_and_are_refused_where_there_are_none():
    module = nn.Linear(2, 2)
    optimizer = make_optimizer({"student": module}, Optimisation(**RECIPE, betas=(0.9, 0.95)))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.95)}
    default = make_optimizer({"student": module}, Optimisation(**RECIPE))
    assert {group["betas"] for group in default.param_groups} == {(0.9, 0.999)}
    with pytest.raises(ValueError, match="nesterov has no betas: leave out --betas"):
        make_optimizer({"student": module}, Optimisation(optimizer="nesterov", betas=(0.9, 0.95)))


@pytest.mark.parametrize("after", [None, True])
def test_the_cosine_falls_to_an_absolute_rate_and_may_begin_after_the_warmup(after: bool | None):
    settings = Optimisation(
        **RECIPE, schedule="cosine", warmup_epochs=2, min_learning_rate=2e-3, cosine_after_warmup=after
    )
    optimizer = make_optimizer({"student": nn.Linear(2, 2)}, settings)
    scheduler = make_scheduler(optimizer, settings, steps=100, steps_per_epoch=10)

    def rate(step: int) -> float:
        scheduler.step_update(step)
        return peak_learning_rate(optimizer)

    assert [rate(0), rate(5), rate(10)] == pytest.approx([0.0, 2e-3, 4e-3])
    begin = 20 if after else 0
    for step in (20, 50, 99):
        share = (step - begin) / (100 - begin)
        assert rate(step) == pytest.approx(2e-3 + 0.5 * 6e-3 * (1 + math.cos(math.pi * share)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers 0 ≤ β < 1, not \(0.9, 1.0\)"),
        ({"layer_decay": 0.0}, "layer_decay must be 0 < d ≤ 1, not 0.0"),
        ({"layer_decay": 1.5}, "layer_decay must be 0 < d ≤ 1, not 1.5"),
        ({"schedule": "cosine", "min_learning_rate": 1.0}, "min_learning_rate must be 0…0.05, the peak, not 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        Optimisation(**fields)
