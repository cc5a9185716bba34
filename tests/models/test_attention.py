"""Attention layers are found by running a network, and what cannot be read is named."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import timm
import torch
from torch import nn

from attention_transfer.capture import CaptureError
from attention_transfer.models import Description, attention_layers, describe, with_attention


def found(name: str, side: int = 64, **settings: Any) -> Description:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **settings)
    return with_attention(describe(model), model, torch.empty(2, 3, side, side), "student")


def places(taps: Sequence[Any]) -> list[str]:
    return [tap.module for tap in taps]


@pytest.mark.parametrize(
    ("name", "settings", "prefix", "first"),
    [
        ("vit_tiny_patch16_224", {}, 1, 1),
        ("vit_tiny_patch16_224", {"class_token": False, "reg_tokens": 4, "global_pool": "avg"}, 4, 0),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, 0, 0),
        ("deit_tiny_distilled_patch16_224", {}, 2, 1),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}, 5, 1),
        ("eva02_tiny_patch14_224", {"patch_size": 16}, 1, 1),
    ],
)
def test_every_block_is_a_layer_with_its_prefix_tokens(
    name: str, settings: dict[str, Any], prefix: int, first: int
) -> None:
    description = found(name, img_size=64, depth=2, **settings)
    assert places(description.attention) == ["blocks.0.attn", "blocks.1.attn"]
    assert {(tap.site, tap.prefix_tokens, tap.grid) for tap in description.attention} == {("attention", prefix, None)}
    assert {tap.class_tokens for tap in description.attention} == {first}
    assert not description.attention_elsewhere
    assert not description.attention_unread


def test_patches_of_a_wide_image_have_their_grid() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=1)
    description = with_attention(describe(model), model, torch.empty(2, 3, 32, 64), "student")
    assert [tap.grid for tap in description.attention] == [(2, 4)]


def test_attention_pooling_is_no_layer() -> None:
    description = found("vit_base_patch16_siglip_224", img_size=64, depth=2, embed_dim=48, num_heads=2)
    assert places(description.attention) == ["blocks.0.attn", "blocks.1.attn"]
    assert places(description.attention_elsewhere) == ["attn_pool"]
    assert places(attention_layers(description, "student", ["attn_pool"])) == ["attn_pool"]


def test_softmaxes_written_by_hand_are_layers_and_class_attention_is_none() -> None:
    description = found("cait_xxs24_224", img_size=64, depth=2, embed_dim=48, num_heads=2)
    assert [(tap.module, tap.site) for tap in description.attention] == [
        ("blocks.0.attn", "softmax"),
        ("blocks.1.attn", "softmax"),
    ]
    assert places(description.attention_elsewhere) == ["blocks_token_only.0.attn", "blocks_token_only.1.attn"]
    assert not description.attention_unread


def test_a_map_of_two_softmaxes_is_read_where_it_is_used_and_class_tokens_join_late() -> None:
    description = found("convit_tiny", img_size=64, depth=3, embed_dim=12, local_up_to_layer=2)
    assert [tap.prefix_tokens for tap in description.attention] == [0, 0, 1]
    assert (description.attention[0].module, description.attention[0].site) == ("blocks.0.attn.attn_drop", "map")


def test_windows_have_neither_prefix_nor_the_grid_of_the_image() -> None:
    description = found("swin_tiny_patch4_window7_224", 56, img_size=56, window_size=7, depths=(1, 1), num_heads=(2, 2),
                        embed_dim=24)  # fmt: skip
    assert len(description.attention) == 2
    assert {(tap.prefix_tokens, tap.grid) for tap in description.attention} == {(0, None)}


@pytest.mark.parametrize(
    ("name", "settings", "unread"),
    [
        ("xcit_nano_12_p16_224", {"img_size": 64, "depth": 2}, ["blocks.0", "blocks.1"]),
        ("mvitv2_tiny", {"img_size": 64}, ["stages.0.blocks.0"]),
    ],
)
def test_blocks_whose_attention_is_of_another_kind_are_refused_by_name(
    name: str, settings: dict[str, Any], unread: list[str]
) -> None:
    description = found(name, **settings)
    assert list(description.attention_unread[: len(unread)]) == unread
    with pytest.raises(ValueError, match=f"blocks whose attention cannot be read, {unread[0]}"):
        attention_layers(description, "student")


def test_what_is_said_of_unread_attention_is_true_and_what_to_do_works() -> None:
    description = found("mvitv2_tiny", img_size=64)
    with pytest.raises(
        ValueError, match=r"merged.* in stages\.0\.blocks\.0, .*layers\.student_modules.*such as \('stages\.1\.blocks"
    ):
        attention_layers(description, "student")
    named = [tap.name for tap in description.attention]
    assert len(attention_layers(description, "student", named)) == len(named) > 0
    with pytest.raises(ValueError, match=r"beside 0 that can: there it mixes channels.*such as AttentionTransfer$"):
        attention_layers(found("xcit_nano_12_p16_224", img_size=64, depth=2), "student")


def test_a_network_without_attention_is_refused() -> None:
    description = found("resnet18")
    assert description.attention == ()
    with pytest.raises(ValueError, match=r"the teacher has no self-attention layers.*AttentionTransfer"):
        attention_layers(description, "teacher")


def test_named_layers_must_be_places_where_attention_was_seen() -> None:
    description = found("vit_tiny_patch16_224", img_size=64, depth=2)
    assert places(attention_layers(description, "student", ["blocks.1.attn"])) == ["blocks.1.attn"]
    with pytest.raises(ValueError, match=r"no attention of the student can be read at blocks.1.mlp; it was seen at bl"):
        attention_layers(description, "student", ["blocks.1.mlp"])
    with pytest.raises(ValueError, match="no name given"):
        attention_layers(description, "student", [])


def test_a_network_that_cannot_run_says_so_and_keeps_no_hook() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    with pytest.raises(CaptureError, match=r"the student cannot run on images of shape \(2, 3, 64, 64\)"):
        with_attention(describe(model), model, torch.empty(2, 3, 64, 64), "student")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("need_weights", [True, False])
def test_torchs_own_module_is_read_where_it_keeps_its_weights_to_itself(need_weights: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return cast(torch.Tensor, self.attention(x, x, x, need_weights=need_weights)[0])

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 4, 2, 2)
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return cast(torch.Tensor, self.blocks(self.patches(image).flatten(2).mT)).mean(1)

    model = Network()
    description = with_attention(describe(model), model, torch.empty(2, 3, 4, 4), "student")
    if need_weights:
        with pytest.raises(ValueError, match=r"nn\.MultiheadAttention: call it with need_weights=False"):
            attention_layers(description, "student")
    else:
        assert len(attention_layers(description, "student")) == 2


def test_a_module_that_calls_twice_cannot_be_read() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(2):
                x = nn.functional.scaled_dot_product_attention(x, x, x)
            return x

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Twice()])

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return cast(torch.Tensor, self.blocks[0](image.flatten(2)[:, None])).flatten(1)

    description = with_attention(describe(Network()), Network(), torch.empty(2, 3, 4, 4), "student")
    assert description.attention == ()
    assert places(description.attention_elsewhere) == ["blocks.0"]
