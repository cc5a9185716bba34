"""Vision transformers that are given a distillation token by their name alone."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import timm
import torch
from tests.known import before_blocks
from tests.trained import as_trained
from timm.models.deit import VisionTransformerDistilled
from torch import nn

import attention_transfer
from attention_transfer import DistillationToken, Distiller
from attention_transfer.models import build, describe, open_model, save_model
from attention_transfer.models.distillation_token import with_token, written_plainly
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.naming import parse_name
from attention_transfer.models.two_token_transformer import DistilledVisionTransformer
from attention_transfer.models.untrained import smaller
from attention_transfer.runs import STUDENT_CONFIG, STUDENT_WEIGHTS

SIZES = "img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2"
PLAIN = f"timm:vit_tiny_patch16_224({SIZES})"
WITH_TOKEN = f"timm:vit_tiny_patch16_224({SIZES}, distillation_token=True)"
IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Networks whose published weights were asked for, with weights drawn at random."""
    create, networks = timm.create_model, list[Any]()

    def fetched(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        network = create(name, **options)
        if pretrained:
            networks.append(network)
        return network

    monkeypatch.setattr(timm, "create_model", fetched)
    return networks


def sketched(name: str) -> nn.Module:
    return outline(lambda: build(name, 3))


@pytest.mark.parametrize(
    "name",
    [
        "timm:vit_tiny_patch16_224(drop_path_rate=0.1)",
        "timm:deit_small_patch16_224(img_size=32, patch_size=4)",
        "timm:vit_base_patch8_224(depth=3)",
        "timm:vit_base_patch14_dinov2",
        "timm:vit_small_patch16_384",
    ],
)
def test_nothing_but_a_token_and_a_head_is_new(name: str) -> None:
    plain = sketched(name)
    inside = name.partition("(")[2].removesuffix(")")
    given = sketched(f"{name.partition('(')[0]}({inside + ', ' if inside else ''}distillation_token=True)")
    assert isinstance(given, VisionTransformerDistilled)
    shapes = {key: value.shape for key, value in plain.state_dict().items()}
    found = {key: value.shape for key, value in given.state_dict().items()}
    assert found.keys() - shapes.keys() == {"dist_token", "head_dist.weight", "head_dist.bias"}
    assert {key for key in shapes if found[key] != shapes[key]} == {"pos_embed"}
    assert found["pos_embed"][1] == shapes["pos_embed"][1] + 1
    assert repr(given.blocks) == repr(plain.blocks)
    assert describe(given).token_heads == ("head", "head_dist")


def test_what_is_saved_is_a_network_of_timm_alone(tmp_path: Path) -> None:
    opened = open_model(WITH_TOKEN, 3, image_size=16)
    save_model(opened.module, tmp_path, opened.name, opened.num_classes, opened.image_size)
    said = json.loads((tmp_path / STUDENT_CONFIG).read_text())
    assert "distillation_token" not in said["load"] + said["model"]
    arguments = dict(parse_name(said["model"]).arguments)
    model = timm.create_model(parse_name(said["model"]).inner, num_classes=3, **arguments)
    model.load_state_dict(safetensors.torch.load_file(tmp_path / STUDENT_WEIGHTS))
    with torch.no_grad():
        wanted = opened.module.eval()(IMAGES)
        torch.testing.assert_close(model.eval()(IMAGES), wanted)
        torch.testing.assert_close(open_model(str(tmp_path)).module(IMAGES), wanted)


def test_weights_without_the_token_give_it_what_the_class_token_knows(tmp_path: Path) -> None:
    plain = build(PLAIN, 3)
    nn.init.normal_(plain.get_parameter("cls_token"))
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "w.safetensors")
    opened = open_model(f"{WITH_TOKEN}@{tmp_path / 'w.safetensors'}")
    assert opened.trained
    weights, given = plain.state_dict(), opened.module.state_dict()
    assert torch.equal(given["dist_token"], weights["cls_token"])
    assert torch.equal(given["head_dist.weight"], weights["head.weight"])
    assert torch.equal(given["pos_embed"][:, 1:], weights["pos_embed"])
    assert torch.equal(given["pos_embed"][:, 0], weights["pos_embed"][:, 0])
    # Two tokens that are alike see alike: without the other in sight, each would be the class token of the plain one.
    opened.module.set_distilled_training(True)
    first, second = opened.module.train()(IMAGES)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", ["deit3_small_patch16_224", "vit_tiny_patch16_224(no_embed_class=True)"])
def test_tokens_without_a_place_start_without_one(name: str, tmp_path: Path) -> None:
    sizes = "(" + SIZES if "(" not in name else name[name.find("(") : -1] + ", " + SIZES
    name = f"timm:{name.partition('(')[0]}{sizes}"
    plain = build(f"{name})", 3)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.1)
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "w.safetensors")
    opened = open_model(f"{name}, distillation_token=True)@{tmp_path / 'w.safetensors'}")
    given, module = opened.module.state_dict()["pos_embed"], cast(Any, opened.module)
    assert torch.equal(given[:, 2:], plain.state_dict()["pos_embed"])
    assert not given[:, :2].any()
    # Without the other token in sight, each sees what the class token of the plain network sees.
    with torch.no_grad():
        tokens = before_blocks(module.eval(), IMAGES)[:, 1:]
        torch.testing.assert_close(tokens, before_blocks(plain.eval(), IMAGES))


def test_weights_without_a_head_may_have_a_token_too(tmp_path: Path) -> None:
    weights = {key: value for key, value in build(PLAIN, 3).state_dict().items() if not key.startswith("head")}
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    opened = open_model(f"{WITH_TOKEN}@{tmp_path / 'w.safetensors'}", 5, new_head=True)
    assert opened.module.get_submodule("head_dist").out_features == 5  # pyright: ignore[reportAttributeAccessIssue]
    plainly = parse_name(PLAIN)
    assert with_token(with_token(weights, of=plainly), of=plainly).keys() == with_token(weights, of=plainly).keys()


def test_published_weights_are_given_the_token(published: list[Any]) -> None:
    opened = open_model(f"{WITH_TOKEN}@pretrained", 3)
    (plain,) = published
    assert "deit" in opened.name
    assert torch.equal(opened.module.state_dict()["blocks.0.attn.qkv.weight"], plain.blocks[0].attn.qkv.weight)
    assert torch.equal(opened.module.state_dict()["head_dist.weight"], plain.head.weight)


def test_names_that_do_not_ask_for_it_stay_as_they_are() -> None:
    for name in ("resnet8", PLAIN, "hf:folder(distillation_token=True)", "torchvision:vit_b_16"):
        assert written_plainly(name) == name
    assert written_plainly("timm:vit_tiny_patch16_224(depth=2, distillation_token=False)") == (
        "timm:vit_tiny_patch16_224(depth=2)"
    )


# Networks that are not timm's distilled DeiT with other sizes.
OTHERS = [
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_clip_quickgelu_224",
    "vit_small_patch16_18x2_224",
    "vit_base_patch16_224(pos_embed='none')",
]


def other(name: str, *arguments: str) -> str:
    inner, _, said = name.partition("(")
    return f"timm:{inner}({', '.join([*filter(None, [said.removesuffix(')')]), SIZES, *arguments])})"


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_have_it_too(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = cast(Any, build(other(name), 3))
    if plain.forward_features(IMAGES).shape[1] == plain.patch_embed.num_patches:
        # Older versions of timm leave the class token out where there is no position embedding.
        assert plain.pos_embed is None
        with pytest.raises(ValueError, match="leaves the class token of timm:vit_base_patch16_224 out"):
            build(other(name, "distillation_token=True"), 3)
        return
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.1)
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "w.safetensors")
    opened = open_model(f"{other(name, 'distillation_token=True')}@{tmp_path / 'w.safetensors'}")
    given = cast(Any, opened.module)
    description = describe(given)
    assert description.token_heads == ("head", "head_dist")
    assert description.head is None
    assert {stage.output.prefix_tokens for stage in description.stages} == {plain.num_prefix_tokens + 1}
    assert given.state_dict().keys() - plain.state_dict().keys() == {"dist_token", "head_dist.weight", "head_dist.bias"}
    with torch.no_grad():
        # Both tokens begin alike, and everything else is as it was.
        wanted, tokens = before_blocks(plain.eval(), IMAGES), before_blocks(given, IMAGES)
        torch.testing.assert_close(torch.cat([tokens[:, :1], tokens[:, 2:]], 1), wanted)
        torch.testing.assert_close(tokens[:, 1], tokens[:, 0])
        features = given.forward_features(IMAGES)
        torch.testing.assert_close(features[:, 1], features[:, 0])
        torch.testing.assert_close(given(IMAGES), plain.forward_head(features))


def test_what_timm_alone_cannot_open_says_what_can(tmp_path: Path) -> None:
    name = other(OTHERS[0], "distillation_token=True")
    opened = open_model(name, 3)
    save_model(opened.module, tmp_path, opened.name, opened.num_classes, opened.image_size)
    said = json.loads((tmp_path / STUDENT_CONFIG).read_text())
    assert said["load"].startswith("model = attention_transfer.models.build(")
    scope: dict[str, Any] = {"attention_transfer": attention_transfer, "safetensors": safetensors}
    exec(said["load"].replace(repr(STUDENT_WEIGHTS), repr(str(tmp_path / STUDENT_WEIGHTS))), scope)
    with torch.no_grad():
        wanted = opened.module.eval()(IMAGES)
        torch.testing.assert_close(scope["model"].eval()(IMAGES), wanted)
        torch.testing.assert_close(open_model(str(tmp_path)).module(IMAGES), wanted)


def test_published_weights_of_other_networks_are_given_the_token(published: list[Any]) -> None:
    opened = open_model(f"{other(OTHERS[1], 'distillation_token=True')}@pretrained", 3)
    (plain,) = published
    assert isinstance(opened.module, DistilledVisionTransformer)
    assert not isinstance(plain, DistilledVisionTransformer)
    assert torch.equal(opened.module.state_dict()["head_dist.weight"], plain.head.weight)


def test_both_tokens_of_other_networks_learn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = build(other(OTHERS[0], "distillation_token=True"), 3)
    teacher = as_trained(build("resnet8", 3))
    distiller = Distiller(student, teacher, [DistillationToken()], example=IMAGES)
    distiller(IMAGES, torch.tensor([0, 1])).loss.backward()
    for name in ("dist_token", "cls_token", "reg_token", "head.weight", "head_dist.weight"):
        assert student.get_parameter(name).grad.abs().sum() > 0
    assert re.match(cast(Any, student).group_matcher()["stem"], "dist_token")


@pytest.mark.parametrize("name", ["deit3_small_patch16_384", "vit_tiny_patch16_384"])
def test_the_size_of_images_can_be_said_beside_the_name(name: str, tmp_path: Path) -> None:
    name = f"timm:{name}(patch_size=8, embed_dim=12, depth=1, num_heads=2, distillation_token=True)"
    opened = open_model(name, 3, image_size=16)
    save_model(opened.module, tmp_path, opened.name, opened.num_classes, opened.image_size)
    again = open_model(str(tmp_path)).module
    with torch.no_grad():
        torch.testing.assert_close(again(IMAGES), opened.module.eval()(IMAGES))
    assert build(name, 3).get_parameter("pos_embed").shape[1] == 48 * 48 + 2


def test_tiny_forms_keep_the_token() -> None:
    small = sketched(smaller("timm:vit_tiny_patch16_224(distillation_token=True)", 32))
    assert isinstance(small, VisionTransformerDistilled)
    assert (small.embed_dim, small.patch_embed.img_size) == (24, (32, 32))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "timm:resnet18(distillation_token=True)",
            "only plain vision transformers can have a distillation_token, and timm:resnet18 is a ResNet",
        ),
        ("timm:swin_tiny_patch4_window7_224(distillation_token=True)", "only plain vision transformers"),
        ("timm:vit_base_patch16_siglip_224(distillation_token=True)", "does not classify by a class token"),
        ("timm:vit_tiny_patch16_224(global_pool='avg', distillation_token=True)", "does not classify by a class token"),
        ("timm:eva02_tiny_patch14_224(distillation_token=True)", "only plain vision transformers"),
        ("timm:vit_tiny_patch16_224(dynamic_img_size=True, distillation_token=True)", "leave out dynamic_img_size"),
        ("timm:vit_small_patch14_reg4_dinov2(patch_drop_rate=0.1, distillation_token=True)", "patch_drop_rate"),
        ("timm:deit_tiny_distilled_patch16_224(distillation_token=True)", "has a distillation token already"),
        ("timm:vit_tiny_patch16_224(distillation_token=1)", "is True or False, not 1"),
        ("timm:vit_tiny_patch16_224(distillation_token=True, widht=3)", "'widht' cannot be an argument"),
    ],
)
def test_networks_that_cannot_have_it_are_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sketched(name)
