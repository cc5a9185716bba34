"""Attention links: what they read, learn and refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tests.closeness import assert_near
from tests.trained import as_trained
from timm.models.pit import PoolingVisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import (
    AttentionLinks,
    DistillationToken,
    Distiller,
    Input,
    Method,
    Optimisation,
    Output,
    SoftTargets,
    build,
)
from attention_transfer.methods.attention_links.link_weights import Links
from attention_transfer.methods.attention_links.selection import LinkChoice, LinkGroup, links_to_json
from attention_transfer.training.optim import make_optimizer

EXAMPLE = torch.empty(2, 3, 16, 16)


def transformer(**others: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 6}
    name = others.pop("name", "vit_tiny_patch16_224")
    model = timm.create_model(name, **(sizes | others))
    # Of fresh transformers all attention is almost even.
    for path, parameter in model.named_parameters():
        if "qkv" in path:
            nn.init.normal_(parameter, std=0.4)
    return model


def convolutions(classes: int = 4) -> nn.Module:
    """Stages of 16, 32 and 64 channels over 16×16, 8×8 and 4×4 positions."""
    torch.manual_seed(1)
    return as_trained(build("resnet8", classes))


def linked(method: AttentionLinks, student: nn.Module | None = None, teacher: nn.Module | None = None) -> Distiller:
    return Distiller(student or transformer(), teacher or convolutions(), [method], task_weight=0, example=EXAMPLE)


def links_of(distiller: Distiller) -> Links:
    links = distiller.parts["attention-links"]
    assert isinstance(links, Links)
    return links


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def value(distiller: Distiller) -> Tensor:
    return distiller(images()).terms["attention-links"].value


# ------------------------------------------------------------------ what is computed


def slow(distiller: Distiller, student: nn.Module, teacher: nn.Module, image: Tensor) -> Tensor:
    """Eq. 3 to 5, mean square over images, channels and positions, without anything that the library reads with."""
    links = links_of(distiller)
    inputs: dict[str, Tensor] = {}
    stages: list[Tensor] = []
    handles = [
        block.attn.register_forward_pre_hook(lambda module, args, name=str(i): inputs.update({name: args[0]}))
        for i, block in enumerate(student.blocks)  # pyright: ignore
    ]
    handles += [
        getattr(teacher, name)[-1].relu2.register_forward_pre_hook(lambda module, args: stages.append(args[0].clone()))
        for name in ("layer1", "layer2", "layer3")
    ]
    student(image)
    with torch.no_grad():
        teacher.eval()(image)
    for handle in handles:
        handle.remove()
    maps: list[Tensor] = []
    for i, block in enumerate(student.blocks):  # pyright: ignore
        tokens = inputs[str(i)]
        query, key, _ = block.attn.qkv(tokens).unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        for head in range(3):
            logits = torch.stack([(query[:, head, 0] * key[:, head, p]).sum(-1) for p in range(1, 17)], 1) / 8**0.5
            maps.append(logits.softmax(1))
    total, count = torch.zeros((), dtype=image.dtype), 0
    groups = list(links.groups)
    for group, stage in zip(groups, stages, strict=True):
        small = functional.interpolate(stage, (4, 4), mode="bicubic", align_corners=False).flatten(2)
        for c in range(stage.shape[1]):
            augmented = group.bias[c] + sum(group.weight[c, n] * each for n, each in enumerate(maps))
            ours = augmented / augmented.norm(dim=1, keepdim=True)
            theirs = small[:, c] / small[:, c].norm(dim=1, keepdim=True)
            total, count = total + (ours - theirs).square().mean(), count + 1
    return total / count


def test_the_loss_is_that_of_a_slow_loop_in_float64_and_reaches_links_and_queries_and_keys():
    student, teacher = transformer().double(), convolutions().double()
    example = EXAMPLE.double()
    distiller = Distiller(student, teacher, [AttentionLinks()], task_weight=0, example=example)
    distiller.double().eval()
    image = images().double()
    out = distiller(image)
    moving = list(distiller.parts.parameters())
    moving += [block.attn.qkv.weight for block in student.blocks]  # pyright: ignore
    found = torch.autograd.grad(out.terms["attention-links"].value, moving, retain_graph=True)
    distiller.detach()
    expected = slow(distiller, student, teacher, image)
    assert out.loss.item() == pytest.approx(2000 * expected.item(), rel=1e-9)
    for ours, theirs in zip(found, torch.autograd.grad(expected, moving), strict=True):
        assert_near(ours, theirs, steps=2**24)
    for gradient in found[-len(student.blocks) :]:  # pyright: ignore
        queries, keys, _ = gradient.chunk(3)
        assert queries.abs().max() > 0
        assert keys.abs().max() > 0
    # Nothing that follows the last layer is read, so its values learn nothing.
    assert found[-1].chunk(3)[2].abs().max() == 0


@pytest.mark.parametrize(
    ("student", "teacher", "links", "channels"),
    [
        ("timm:deit_small_distilled_patch16_224(img_size=32)", "timm:efficientnet_b3", 68_544, 952),
        ("timm:deit_base_distilled_patch16_224(img_size=32, embed_dim=96)", "timm:efficientnet_b0", 784 * 144, 784),
        ("timm:deit_small_distilled_patch16_224(img_size=32, embed_dim=48)", "timm:resnet34", 960 * 72, 960),
        ("timm:pit_ti_224", "timm:resnet18", 960 * (2 * 2 + 6 * 4 + 4 * 8), 960),
        ("timm:deit_tiny_patch16_224(img_size=32, patch_size=8)", "torchvision:squeezenet1_0", 1280 * 36, 1280),
    ],
)
def test_links_are_as_many_as_channels_times_heads(student: str, teacher: str, links: int, channels: int):
    """The first pair is the paper's, whose 0.068 million weights are the seven stages of EfficientNet-B3."""
    # The number does not depend on the image, but PiT has a size of its own.
    side = 32 if "(" in student else 224
    networks = build(student, 3), as_trained(build(teacher, 5))
    distiller = Distiller(*networks, [AttentionLinks()], example=torch.empty(1, 3, side, side))
    found = links_of(distiller)
    assert (found.num_links, found.num_channels) == (links, channels)
    assert sum(parameter.numel() for parameter in found.parameters()) == links + channels


@pytest.mark.parametrize(
    "setting",
    [
        {"softmax": "all"},
        {"scaled": False},
        {"form": "norm"},
        {"channel_reduction": "sum"},
        {"align_corners": True},
        {"antialias": True},
        {"activation": "post"},
        {"grid": (8, 8)},
        {"stages": (0, 1)},
        {"links": "1:1-2,3:3"},
    ],
)
def test_every_option_changes_what_is_computed(setting: dict[str, Any]):
    torch.manual_seed(3)
    first = value(linked(AttentionLinks()))
    torch.manual_seed(3)
    other = linked(AttentionLinks(**setting))
    if "links" not in setting and "stages" not in setting:
        links_of(other).stages.load_state_dict(links_of(linked(AttentionLinks())).stages.state_dict())
    assert (value(other) - first).abs() > 1e-6


def test_sum_over_channels_is_their_mean_times_their_number():
    means, sums = linked(AttentionLinks()), linked(AttentionLinks(channel_reduction="sum"))
    links_of(sums).load_state_dict(links_of(means).state_dict())
    torch.testing.assert_close(value(sums), 112 * value(means))


def test_the_weight_falls_as_the_paper_has_it():
    schedule = AttentionLinks().schedule
    assert schedule.factor(0) == 1
    assert schedule.factor(200) == pytest.approx(0.99**200)
    assert schedule.factor(300) == pytest.approx(0.99**200 * 0.98**100)
    distiller = linked(AttentionLinks())
    distiller.set_epoch(2)
    assert float(distiller(images()).terms["attention-links"].weight) == pytest.approx(2000 * 0.99**2)


# ------------------------------------------------------------------ links that exist


def test_only_links_that_exist_are_computed():
    distiller = linked(AttentionLinks(links="1:1-2,3:3"))
    links = links_of(distiller)
    assert [tuple(group.weight.shape) for group in links.groups] == [(16, 6), (64, 3)]
    full = linked(AttentionLinks())
    with torch.no_grad():
        for few, all_of_them, columns in zip(
            links.groups, [list(links_of(full).groups)[i] for i in (0, 2)], (slice(6), slice(6, 9)), strict=True
        ):
            all_of_them.weight.zero_()
            all_of_them.weight[:, columns] = few.weight
            all_of_them.bias.copy_(few.bias)
        distances = [linked_distance(full, method) for method in ("1:1-3", "3:1-3")]
    torch.testing.assert_close(value(distiller), (16 * distances[0] + 64 * distances[1]) / 80)


def test_stages_without_links_are_not_read_and_the_teacher_stops_before_them():
    teacher = convolutions()
    entered: list[int] = []
    for number, name in enumerate(("layer1", "layer2", "layer3")):
        teacher.get_submodule(name).register_forward_pre_hook(lambda *_, number=number: entered.append(number))
    distiller = linked(AttentionLinks(links="2:1-3"), teacher=teacher)
    assert [str(tap) for tap in distiller.reads[0].teacher.taps] == ["input of layer2.0.relu2"]
    entered.clear()
    assert value(distiller).isfinite()
    assert entered == [0, 1]
    assert links_of(distiller).get_buffer("channels").tolist() == [0, 32, 0]


def linked_distance(full: Distiller, links: str) -> Tensor:
    """What one stage of a full link comes to by itself."""
    alone = linked(AttentionLinks(links=links))
    stage = int(links[0]) - 1
    (group,) = links_of(alone).groups
    group.load_state_dict(list(links_of(full).groups)[stage].state_dict())
    return value(alone)


def test_links_by_channel_are_those_of_a_full_link_without_the_others(tmp_path: Path):
    groups = (LinkGroup((0, 2), (1, 4)), LinkGroup((1,), (0, 2, 3)))
    path = tmp_path / "links.json"
    path.write_text(links_to_json(LinkChoice((groups, (), ()), channels=(16, 32, 64), heads=(3, 3, 3)), {}))
    distiller = linked(AttentionLinks(links=str(path)))
    full = linked(AttentionLinks(links="1:1-3"))
    (whole,) = links_of(full).groups
    # Channels without links have combinations that are zero, which stay at a distance of 1 over 16 positions.
    with torch.no_grad():
        whole.weight.zero_()
        whole.bias.zero_()
        for group, columns in zip(links_of(distiller).groups, ([0, 1, 2, 6, 7, 8], [3, 4, 5]), strict=True):
            rows = group.channel[:, None]  # pyright: ignore
            whole.weight[rows, torch.tensor(columns)] = group.weight
            whole.bias[group.channel] = group.bias  # pyright: ignore
    expected = (16 * value(full) - 11 / 16) / 5
    torch.testing.assert_close(value(distiller), expected)
    assert links_of(distiller).num_links == 2 * 6 + 3 * 3


# ------------------------------------------------------------------ networks


def test_the_teachers_head_never_runs_and_may_have_any_classes():
    teacher = convolutions(classes=11)

    def refuse(*arguments: object) -> None:
        raise AssertionError("the head ran")

    distiller = linked(AttentionLinks(), teacher=teacher)
    teacher.fc.register_forward_pre_hook(refuse)  # pyright: ignore
    assert value(distiller).isfinite()
    assert not distiller.reads_teacher_logits


def test_the_teacher_may_want_images_of_another_size_and_normalisation():
    method, given = AttentionLinks(), Input((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    other = Input((0.4, 0.5, 0.6), (0.1, 0.2, 0.3), (24, 24))
    teacher = convolutions()
    received: list[Tensor] = []
    distiller = Distiller(transformer(), teacher, [method], example=EXAMPLE, student_input=given, teacher_input=other)
    teacher.register_forward_pre_hook(lambda module, args: received.append(args[0]))
    assert links_of(distiller).grid == (4, 4)
    assert distiller(images(), torch.arange(4)).loss.isfinite()
    pixels = images() * 0.2 + 0.5
    mean, std = (torch.tensor(each)[:, None, None] for each in (other.mean, other.std))
    assert received[0].shape == (4, 3, 24, 24)
    wanted = functional.interpolate(pixels, (24, 24), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(received[0] * std + mean, wanted, atol=1e-5, rtol=1e-5)


def pyramid() -> nn.Module:
    """Grids of 7×7, 4×4 and 2×2 patches of an image of 32 pixels."""
    sizes = {"img_size": 32, "patch_size": 8, "stride": 4, "base_dims": (8, 8, 8), "depth": (1, 1, 1)}
    torch.manual_seed(0)
    return PoolingVisionTransformer(**sizes, heads=(1, 2, 4), mlp_ratio=4, num_classes=6)


def windows() -> nn.Module:
    """Two stages of 8×8 and 4×4 patches in windows of 4×4, of which every other layer shifts them."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=6, **sizes)


def written_by_hand() -> nn.Module:
    """ConViT: gated positional attention in its first layers, with maps that no kernel makes."""
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 6, "depth": 3, "num_heads": 4, "local_up_to_layer": 2}
    return timm.create_model("convit_tiny", num_classes=6, **sizes)


@pytest.mark.parametrize(
    ("make", "side", "grid"),
    [
        (lambda: transformer(name="deit_tiny_distilled_patch16_224"), 16, (4, 4)),
        (lambda: transformer(class_token=False, global_pool="avg"), 16, (4, 4)),
        (lambda: transformer(reg_tokens=4), 16, (4, 4)),
        (pyramid, 32, (7, 7)),
        (windows, 32, (8, 8)),
        (written_by_hand, 16, (4, 4)),
    ],
    ids=["distilled", "no class token", "registers", "pyramid", "Swin", "ConViT"],
)
def test_students_of_other_kinds_learn_too(make: Callable[[], nn.Module], side: int, grid: tuple[int, int]):
    student = make()
    distiller = Distiller(student, convolutions(), [AttentionLinks()], example=torch.empty(2, 3, side, side))
    assert links_of(distiller).grid == grid
    distiller(torch.randn(2, 3, side, side), torch.arange(2)).loss.backward()
    weights = [p for name, p in student.named_parameters() if name.endswith(("qkv.weight", "attn.qk.weight"))]
    assert len(weights) >= 2
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in weights)


def test_networks_without_norms_are_read_after_their_activation():
    def taps(teacher: str, **others: Any) -> list[str]:
        distiller = linked(AttentionLinks(**others), teacher=as_trained(build(teacher, 3)))
        return [str(tap) for tap in distiller.reads[0].teacher.taps]

    assert taps("resnet8")[0] == "input of layer1.0.relu2"
    assert taps("resnet8", activation="post") == ["layer1", "layer2", "layer3"]
    assert taps("resnet8", teacher_layers=("layer2",)) == ["layer2"]
    assert taps("timm:efficientnet_b0")[-1] == "blocks.6"
    torchvision = as_trained(build("torchvision:squeezenet1_0", 3))
    distiller = Distiller(
        transformer(img_size=32, patch_size=8), torchvision, [AttentionLinks()], example=torch.empty(2, 3, 32, 32)
    )
    assert [str(tap) for tap in distiller.reads[0].teacher.taps] == ["features.5", "features.10", "features.12"]


@pytest.mark.parametrize(
    ("other", "term"),
    [
        (SoftTargets(), "kd"),
        (DistillationToken(), "distillation-token"),
        (DistillationToken(kind="soft", temperature=3.0), "distillation-token"),
    ],
    ids=["soft targets", "hard token", "soft token"],
)
def test_it_goes_with_what_learns_classes_and_neither_changes_the_other(other: Method, term: str):
    def step(methods: list[Method]) -> tuple[Output, dict[str, Tensor], Distiller]:
        student = transformer(name="deit_tiny_distilled_patch16_224")
        torch.manual_seed(4)
        distiller = Distiller(student, convolutions(classes=6), methods, task_weight=0.5, example=EXAMPLE)
        out = distiller(images(), torch.arange(4))
        moving = [(name, p) for name, p in distiller.named_parameters() if p.requires_grad]
        names, parameters = zip(*moving, strict=True)
        links = out.terms.get("attention-links")
        found = torch.autograd.grad(out.loss if links is None else links.value, parameters, allow_unused=True)
        return out, {name: each for name, each in zip(names, found, strict=True) if each is not None}, distiller

    both, gradients, distiller = step([AttentionLinks(), other])
    alone, expected, _ = step([AttentionLinks()])
    without, _, _ = step([other])
    assert set(both.terms) == {"ce", "attention-links", term}
    torch.testing.assert_close(both.terms["attention-links"].value, alone.terms["attention-links"].value)
    torch.testing.assert_close(both.terms[term].value, without.terms[term].value)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name])
    assert distiller.deployed is distiller.student
    assert set(distiller.student.state_dict()) == set(transformer(name="deit_tiny_distilled_patch16_224").state_dict())
    assert all(name.startswith("attention-links.") for name in distiller.parts.state_dict())


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("decays", [True, False])
def test_links_are_worn_off_by_weight_decay_unless_they_are_spared(decays: bool):
    distiller = linked(AttentionLinks(decay_links=decays))
    settings = Optimisation(optimizer="adamw", weight_decay=0.1, decay_norm_and_bias=False)
    optimizer = make_optimizer(distiller.trained_modules(), settings)
    weight = next(iter(links_of(distiller).groups)).weight
    group = next(each for each in optimizer.param_groups if any(p is weight for p in each["params"]))
    assert group["weight_decay"] == (0.1 if decays else 0)
