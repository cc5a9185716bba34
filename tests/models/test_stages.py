"""Stages against timm's own, pairs that would train the wrong thing, and networks without memory."""

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from tests.conftest import SmallNet
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

from attention_transfer import AttentionTransfer, Distiller, SoftTargets
from attention_transfer.capture import Capture, Reading, spatial
from attention_transfer.models import Stage, check_pair, describe
from attention_transfer.models.meta_networks import outline

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


# ---------------- pairs of networks that would train the wrong thing without a word

Pair = tuple[nn.Module, nn.Module]


class Host(nn.Module):
    def __init__(self, network: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.network, self.other = network, other

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def inside() -> Pair:
    teacher = SmallNet(6)
    return Host(SmallNet(4), teacher), teacher


def around() -> Pair:
    student = SmallNet(4)
    return student, nn.Sequential(student, nn.Identity())


def same_memory() -> Pair:
    student, teacher = SmallNet(4), SmallNet(4)
    teacher.load_state_dict(student.state_dict(), assign=True)
    return student, teacher


def same_statistics() -> Pair:
    norm = nn.BatchNorm2d(3, affine=False)
    return nn.Sequential(norm, SmallNet(4)), nn.Sequential(norm, SmallNet(6))


def same_dropout() -> Pair:
    dropout = nn.Dropout()
    return nn.Sequential(SmallNet(4), dropout), nn.Sequential(SmallNet(6), dropout)


def lazy() -> Pair:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), SmallNet(6)


def lazy_teacher() -> Pair:
    return SmallNet(4), nn.Sequential(nn.LazyBatchNorm2d(), SmallNet(6))


def on_meta() -> Pair:
    with torch.device("meta"):
        return SmallNet(4), SmallNet(6)


def of_inference_mode() -> Pair:
    with torch.inference_mode():
        return SmallNet(4), SmallNet(6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (inside, "share parameters .*copy.deepcopy"),
        (around, "share parameters"),
        (same_memory, "share parameters"),
        (same_statistics, "share running statistics"),
        (same_dropout, r"share the module '1' \(Dropout\), whose mode would follow both"),
        (lazy, r"student has lazy modules .*'1.weight'.*run it once"),
        (lazy_teacher, "teacher has lazy modules"),
        (on_meta, "no weights .*meta device.*load them first"),
        (of_inference_mode, "made in inference mode"),
    ],
)
def test_pairs_that_cannot_be_are_refused(make: Callable[[], Pair], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_pair(*make())


def test_stateless_modules_may_be_shared_and_copies_are_apart() -> None:
    act = nn.ReLU()
    check_pair(nn.Sequential(SmallNet(4), act), nn.Sequential(SmallNet(6), act))
    student = SmallNet(4)
    check_pair(student, copy.deepcopy(student))


def test_weights_tied_within_a_network_are_its_own() -> None:
    student, teacher = SmallNet(4), SmallNet(6)
    student.again = student.fc
    check_pair(student, teacher)


def test_where_and_when_a_distiller_is_built() -> None:
    student, teacher = SmallNet(4), SmallNet(6)
    methods = [AttentionTransfer(), SoftTargets()]
    example, images = torch.empty(2, 3, 16, 16), torch.randn(4, 3, 16, 16)
    labels = torch.arange(4)
    with torch.inference_mode(), pytest.raises(ValueError, match="cannot be built in inference mode"):
        Distiller(student, teacher, methods, example=example)
    wanted = Distiller(student, teacher, methods, example=example)(images, labels).loss
    with torch.no_grad():
        distiller = Distiller(student, teacher, methods, example=example)
    torch.testing.assert_close(distiller(images, labels).loss, wanted)
    with torch.device("meta"):
        distiller = Distiller(student, teacher, methods, example=example)
    torch.testing.assert_close(distiller(images, labels).loss, wanted)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        distiller = Distiller(student, teacher, methods, example=example)
        torch.testing.assert_close(distiller(images, labels).loss, wanted)
    finally:
        torch.set_default_dtype(default)


# ---------------- networks without memory, whatever their constructors compute


class Rates(nn.Module):
    """Computes with tensors that are no parameters, as constructors with drop path do."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [float(rate) for rate in torch.linspace(0, 1, 3)]
        self.layer = nn.Linear(2, 3)
        self.tied = nn.Linear(2, 3)
        self.tied.weight = self.layer.weight
        self.register_buffer("places", torch.arange(3))


class Beside(nn.Module):
    """Makes a buffer where its parameters are, out of their values' shapes, on one device."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        scale: Tensor = torch.ones(3)
        self.register_buffer("scale", torch.cat([self.layer.bias.detach(), scale]))


class Measures(nn.Module):
    """Needs the values of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.size = float(self.layer.weight.detach().norm())


@pytest.mark.parametrize("kind", [Rates, Beside, Measures])
def test_shapes_are_those_of_the_network_and_generators_stay(kind: type[nn.Module]) -> None:
    before = torch.get_rng_state()
    shapes = {name: value.shape for name, value in outline(kind).state_dict().items()}
    assert torch.equal(torch.get_rng_state(), before)
    assert shapes == {name: value.shape for name, value in kind().state_dict().items()}


def test_what_constructors_compute_is_right_and_parameters_have_no_memory() -> None:
    sketch = outline(Rates)
    assert sketch.rates == [0.0, 0.5, 1.0]
    assert all(parameter.is_meta for parameter in sketch.parameters())
    assert sketch.tied.weight is sketch.layer.weight
    assert sketch.get_buffer("places").tolist() == [0, 1, 2]
    assert outline(Measures).size > 0


def test_networks_that_are_made_afterwards_and_by_other_threads_have_memory() -> None:
    made: list[nn.Module] = []

    def make() -> nn.Module:
        thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 3)))
        thread.start()
        thread.join()
        return nn.Linear(2, 3)

    assert outline(make).weight.is_meta
    assert not made[0].get_parameter("weight").is_meta
    assert not nn.Linear(2, 3).weight.is_meta


def test_what_a_constructor_raises_comes_out() -> None:
    def fail() -> nn.Module:
        raise KeyError("no such layer")

    def refuse() -> nn.Module:
        raise ValueError("no such size")

    with pytest.raises(KeyError, match="no such layer"):
        outline(fail)
    with pytest.raises(ValueError, match="no such size"):
        outline(refuse)
