"""Small forms of large vision transformers."""

import pytest
import torch
from timm.models import VisionTransformer

from attention_transfer.models import build
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.naming import parse_name
from attention_transfer.models.untrained import smaller


def built(name: str) -> VisionTransformer:
    network = outline(lambda: build(name, 10))
    assert isinstance(network, VisionTransformer)
    return network


@pytest.mark.parametrize(
    ("name", "layers", "heads", "patches"),
    [
        ("timm:vit_base_patch16_224.mae(global_pool='avg', drop_path_rate=0.1)", 12, 12, 7 * 7),
        ("timm:vit_large_patch14_clip_224.laion2b", 24, 16, 8 * 8),
        ("timm:vit_huge_patch14_224(depth=3)", 3, 16, 8 * 8),
        ("timm:vit_tiny_patch16_224(img_size=32, patch_size=4, embed_dim=192, depth=8, num_heads=6)", 8, 6, 4 * 4),
        ("timm:deit_tiny_distilled_patch16_224", 12, 3, 7 * 7),
    ],
)
def test_layers_heads_and_tokens_before_the_patches_stay(name: str, layers: int, heads: int, patches: int):
    small, large = built(smaller(name, 64)), built(name)
    assert len(small.blocks) == len(large.blocks) == layers
    assert small.blocks[0].attn.num_heads == large.blocks[0].attn.num_heads == heads  # pyright: ignore
    assert small.num_prefix_tokens == large.num_prefix_tokens
    assert small.patch_embed.num_patches == patches < large.patch_embed.num_patches
    assert small.embed_dim == 8 * heads
    assert small.patch_embed.img_size == (64, 64)
    assert small.global_pool == large.global_pool


def test_what_else_is_said_about_a_network_stays_and_weights_go():
    name = "timm:vit_large_patch16_224.mae(global_pool='avg', drop_path_rate=0.2)@pretrained"
    small = smaller(name, 64)
    assert small.startswith("timm:vit_large_patch16_224.mae(")
    assert dict(parse_name(small).arguments) == {
        "global_pool": "avg",
        "drop_path_rate": 0.2,
        "img_size": 64,
        "patch_size": 9,
        "embed_dim": 128,
    }


@pytest.mark.parametrize(
    "name", ["resnet20", "timm:resnet18@pretrained", "timm:swin_tiny_patch4_window7_224", "runs/a-b/c", "$TEACHER"]
)
def test_other_networks_stay_as_they_are(name: str):
    assert smaller(name, 64) == name


def test_an_argument_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'size' cannot be an argument of 'timm:vit_tiny_patch16_224'"):
        smaller("timm:vit_tiny_patch16_224(size=3)", 32)


def test_nothing_random_is_drawn():
    before = torch.get_rng_state()
    smaller("timm:vit_small_patch16_224(depth=2)", 48)
    assert torch.equal(before, torch.get_rng_state())
