"""The stages of timm's families, against the features that timm itself takes from them."""

from collections.abc import Callable

import pytest
import torch
from timm.models.coat import CoaT
from timm.models.crossvit import CrossVit
from timm.models.dpn import DPN
from timm.models.hiera import Hiera
from timm.models.hieradet_sam2 import HieraDet
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.nest import Nest
from timm.models.pit import PoolingVisionTransformer
from timm.models.tnt import TNT
from timm.models.twins import Twins
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from timm.models.volo import VOLO
from timm.models.xception_aligned import XceptionAligned
from torch import Tensor, nn

from attention_transfer.capture import Capture, Reading, spatial
from attention_transfer.models import Stage, describe

SIDE = 64
VIT = {"img_size": SIDE, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
FOUR = {"img_size": SIDE, "num_classes": 3, "embed_dims": (8, 8, 16, 16), "num_heads": (1, 1, 2, 2)}


def mvit(**settings: bool) -> nn.Module:
    cfg = MultiScaleVitCfg(depths=(1, 2, 1), embed_dim=8, num_heads=1, stride_q=((1, 1), (2, 2), (2, 2)), **settings)
    return MultiScaleVit(cfg, img_size=(SIDE, SIDE), num_classes=3)


# The network; which of timm's features are its stages, in order.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "coat": (
        lambda: CoaT(SIDE, 4, num_classes=3, embed_dims=(8, 8, 16, 16), serial_depths=(1, 2, 1, 1), num_heads=1,
                     mlp_ratios=(2, 2, 2, 2), crpe_window={3: 1}),
        [0, 1, 2, 3],
    ),
    "crossvit": (
        lambda: CrossVit(
            img_size=48, patch_size=(12, 16), img_scale=(1.0, 1.0), num_classes=3, embed_dim=(12, 24),
            depth=((1, 2, 0), (1, 1, 0)), num_heads=(3, 3), mlp_ratio=(2.0, 2.0, 1.0),
        ),
        [2, 3],
    ),
    "hiera": (lambda: Hiera(img_size=(SIDE, SIDE), embed_dim=8, num_heads=1, stages=(1, 1, 1, 2), num_classes=3), [3]),
    "mvitv2": (mvit, [0, 1, 2]),
    "mvitv2 with a class token": (lambda: mvit(use_cls_token=True, use_abs_pos=True), [0, 1, 2]),
    "nest": (
        lambda: Nest(img_size=SIDE, num_levels=2, embed_dims=(8, 8), num_heads=(1, 1), depths=(1, 2), num_classes=3),
        [0, 1],
    ),
    "pit": (
        lambda: PoolingVisionTransformer(
            SIDE, 16, 8, "overlap", base_dims=(8, 8, 8), depth=(1, 1, 1), heads=(1, 2, 4), mlp_ratio=2, num_classes=3
        ),
        [0, 1, 2],
    ),
    "sam 2": (
        lambda: HieraDet(num_classes=3, embed_dim=8, num_heads=1, stages=(1, 1, 2, 2), global_att_blocks=(3,),
                         global_pos_size=(4, 4), window_spec=(4, 4, 4, 4)),
        [0, 1, 2, 3],
    ),
    "sam": (
        lambda: VisionTransformerSAM(SIDE, 16, num_classes=3, embed_dim=16, depth=2, num_heads=2, neck_chans=8), [0, 1]
    ),
    "sam of relative positions": (
        lambda: VisionTransformerSAM(SIDE, 16, num_classes=3, embed_dim=16, depth=2, num_heads=2, neck_chans=8,
                                     use_abs_pos=False, use_rel_pos=True, window_size=3, global_attn_indexes=(1,)),
        [0, 1],
    ),
    "tnt": (
        lambda: TNT(SIDE, 16, embed_dim=16, inner_dim=8, depth=2, num_heads_inner=2, num_heads_outer=2, num_classes=3),
        [0, 1],
    ),
    "twins": (lambda: Twins(**FOUR, depths=(2, 2, 2, 2), mlp_ratios=(2,) * 4, sr_ratios=(8, 4, 2, 1)), [0, 1, 2, 3]),
    "vit": (lambda: VisionTransformer(**VIT, reg_tokens=2), [0, 1]),
    "volo": (
        lambda: VOLO((1, 1, 1), SIDE, num_classes=3, embed_dims=(12, 24, 24), num_heads=(2, 2, 2), mlp_ratio=2,
                     downsamples=(True, False, False), outlook_attention=(True, False, False), post_layers=None),
        [0, 1, 2],
    ),
}  # fmt: skip


def read_stages(model: nn.Module, image: Tensor) -> tuple[tuple[Stage, ...], Reading]:
    stages = describe(model).stages
    capture = Capture(model.eval(), [stage.output for stage in stages], "student")
    reading = capture.probe(image, gradient=True)
    capture.close()
    return stages, reading


@pytest.mark.parametrize("family", NETWORKS)
def test_stages_are_the_features_that_timm_takes(family: str) -> None:
    torch.manual_seed(0)
    build, which = NETWORKS[family]
    model = build()
    if not hasattr(model, "forward_intermediates"):
        pytest.skip("this version of timm takes no features from it")
    side = 48 if family == "crossvit" else SIDE
    image = torch.randn(2, 3, side, side)
    stages, reading = read_stages(model, image)
    with torch.no_grad():
        features = model.forward_intermediates(image, intermediates_only=True)  # pyright: ignore[reportCallIssue]
    expected = [features[index] for index in which]
    for stage, feature in zip(stages[-len(which) :], expected, strict=True):
        found = spatial(reading.values[stage.output], stage.output, (side, side)).detach()
        torch.testing.assert_close(found, feature)
    # Of networks whose tokens lie in windows, only the stages whose tokens lie in rows.
    assert len(stages) == (2 if family == "hiera" else len(which))


def test_stages_of_two_paths_are_maps_of_their_resolution() -> None:
    # Older versions of timm hand both paths on, newer ones join them.
    model = DPN((2, 2, 2, 2), (4, 4, 4, 4), k_r=32, groups=4, num_classes=3, small=True, num_init_features=8)
    _, reading = read_stages(model, torch.randn(2, 3, SIDE, SIDE))
    shapes = [tuple(value.shape[1:]) for value in reading.values.values()]
    assert [shape[1:] for shape in shapes] == [(SIDE // stride, SIDE // stride) for stride in (4, 8, 16, 32)]
    assert all(shape[0] >= width for shape, width in zip(shapes, (64, 128, 256, 512), strict=True))


def test_a_last_stage_that_an_activation_overwrites_is_read_behind_it() -> None:
    block = {"in_chs": 8, "out_chs": 8, "stride": 2}
    model = XceptionAligned([{**block, "in_chs": 64}, block], num_classes=3, preact=True)
    # Older versions of timm overwrite what its last block gives.
    model.act = nn.ReLU(inplace=True)
    stages, reading = read_stages(model, torch.randn(2, 3, SIDE, SIDE))
    assert stages[-1].output.module == "act"
    last = reading.values[stages[-1].output]
    assert float(last.detach().min()) == 0 < float(last.detach().max())
    model.act = nn.ReLU()
    assert describe(model).stages[-1].output.module == "blocks.1"
