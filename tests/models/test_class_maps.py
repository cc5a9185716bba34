"""Class maps of networks of every kind: their means are the logits, or the network is refused with the reason."""

import copy
import random
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.known import skip_where_unknown
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.capture import CaptureError, Tap, spatial
from attention_transfer.models import MODELS, Description, build, describe
from attention_transfer.models.introspection.class_maps import class_map_tap, prove_class_maps
from attention_transfer.models.meta_networks import outline

CLASSES = 7


def _timm(name: str, **options: object) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=CLASSES, **options)


def _transformers(kind: str, **options: object) -> nn.Module:
    pytest.importorskip("transformers")
    from attention_transfer.models.build import from_transformers_config

    return from_transformers_config({"model_type": kind, **options}, CLASSES, None)


# Builders by a name for people, with the side of the images. Shallow where a family lets one choose.
OTHERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "timm resnet": (lambda: _timm("resnet10t"), 64),
    "timm resnext with gates": (lambda: _timm("resnet50", block_args={"attn_layer": "se"}, layers=(1, 1, 1, 1)), 64),
    "timm densenet": (lambda: _timm("densenet121", growth_rate=8, block_config=(2, 2, 2, 2)), 64),
    "timm regnet": (lambda: _timm("regnety_002"), 64),
    "timm mobilenetv1": (lambda: _timm("mobilenetv1_100"), 64),
    "timm mobilenetv2": (lambda: _timm("mobilenetv2_035"), 64),
    "timm efficientnet": (lambda: _timm("efficientnet_b0"), 64),
    "timm efficientnet lite": (lambda: _timm("efficientnet_lite0"), 64),
    "timm mnasnet": (lambda: _timm("mnasnet_small"), 64),
    "timm repvgg": (lambda: _timm("repvgg_a0"), 64),
    "timm hrnet": (lambda: _timm("hrnet_w18_small"), 64),
    "timm vovnet": (lambda: _timm("ese_vovnet19b_slim_dw"), 64),
    "timm darknet": (lambda: _timm("cs3darknet_focus_s"), 64),
    "timm rexnet": (lambda: _timm("rexnet_100"), 64),
    "timm starnet": (lambda: _timm("starnet_s050"), 64),
    "timm mobilevit": (lambda: _timm("mobilevit_xxs"), 64),
    "timm pvt": (lambda: _timm("pvt_v2_b0"), 64),
    "timm swin": (
        lambda: _timm("swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(1, 1, 1), num_heads=(1, 2, 4)),
        56,
    ),
    "timm vit, patches averaged": (
        lambda: _timm("vit_tiny_patch16_224", img_size=(32, 64), depth=2, global_pool="avg", fc_norm=False),
        0,
    ),
    "timm mixer": (lambda: _timm("gmixer_12_224", img_size=64), 64),
    "torchvision resnet": (lambda: build("torchvision:resnet18", CLASSES), 64),
    "torchvision mobilenet_v2": (lambda: build("torchvision:mobilenet_v2", CLASSES), 64),
    "torchvision shufflenet_v2": (lambda: build("torchvision:shufflenet_v2_x0_5", CLASSES), 64),
    "transformers resnet": (
        lambda: _transformers("resnet", depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8),
        32,
    ),
    "transformers swin": (
        lambda: _transformers(
            "swin", image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
        ),
        32,
    ),
}


def read(model: nn.Module, tap: Tap, image: Tensor) -> tuple[Tensor, Tensor]:
    """The value at a tap and the logits, by plain hooks, so that nothing here depends on the library's own capture."""
    values: list[Tensor] = []
    module = model.get_submodule(tap.module)
    handle = (
        module.register_forward_pre_hook(lambda _, given: values.append(given[0].clone()))
        if tap.site == "input"
        else module.register_forward_hook(lambda _, __, output: values.append(output.clone()))
    )
    with torch.no_grad():
        logits = model.eval()(image)
    handle.remove()
    return values[-1], logits


def worst(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a part of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def holds_and_is_proved(model: nn.Module, size: tuple[int, int]) -> None:
    """The identities in float64 to 1e-9, and the proof in float32."""
    description = describe(model)
    tap, head = class_map_tap(description, "teacher"), description.head
    assert head is not None
    linear = model.get_submodule(head)
    assert isinstance(linear, nn.Linear)
    # Some heads begin as zeros.
    nn.init.normal_(linear.weight, std=0.1)
    nn.init.normal_(linear.bias)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    prove_class_maps(model, tap, head, image, "teacher")

    value, logits = read(model.double().requires_grad_(False), tap, image.double())
    features = spatial(value, tap)
    assert features.shape[2] * features.shape[3] > 1
    maps = torch.einsum("bchw,kc->bkhw", features, linear.weight)
    assert worst(linear(features.mean((2, 3))), logits) < 1e-9
    assert worst(maps.mean((2, 3)) + linear.bias, logits) < 1e-9
    pooled_first = torch.einsum("bchw,kc->bkhw", functional.adaptive_avg_pool2d(features, 2), linear.weight)
    assert worst(pooled_first, functional.adaptive_avg_pool2d(maps, 2)) < 1e-9


@pytest.mark.parametrize("name", MODELS)
def test_every_network_of_this_library_has_class_maps(name: str) -> None:
    torch.manual_seed(0)
    holds_and_is_proved(build(name, CLASSES), (32, 32))


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_other_libraries_have_class_maps(name: str) -> None:
    torch.manual_seed(0)
    make, side = OTHERS[name]
    holds_and_is_proved(make(), (side, side) if side else (32, 64))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "norm after the pooling": (lambda: build("timm:convnext_atto", CLASSES), r"between them lies head\.norm \(LayerN"),
    "layers after the pooling": (
        lambda: build("timm:mobilenetv3_small_050", CLASSES),
        r"has 288 channels .* takes 1024 for 2; between them lie conv_head \(Conv2d\), act2",
    ),
    "norm of the averaged patches": (
        lambda: _timm("vit_tiny_patch16_224", img_size=32, depth=1, global_pool="avg"),
        r"at blocks\.0: .* between them lies fc_norm \(LayerNorm\)",
    ),
    "pooling by maximum": (
        lambda: _timm("resnet10t", global_pool="max"),
        r"differs from .*; between them lies global_pool\.pool \(AdaptiveMaxPool2d\)",
    ),
    "activation in a function": (
        lambda: build("torchvision:densenet121", CLASSES),
        r"cannot be read for its class maps: features\.norm5 of the teacher is overwritten in place",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_networks_of_another_form_are_refused_with_what_was_measured_and_what_lies_between(why: str) -> None:
    make, words = REFUSED[why]
    torch.manual_seed(0)
    model = make()
    description = describe(model)
    tap, head = class_map_tap(description, "teacher"), description.head
    assert head is not None
    side = 32 if type(model).__name__ == "VisionTransformer" else 64
    with pytest.raises(CaptureError, match=words):
        prove_class_maps(model, tap, head, torch.empty(1, 3, side, side), "teacher")


NOT_KNOWN = {
    "timm:vit_tiny_patch16_224": "may read a class token",
    "timm:iformer_t": "more than a pooling may lie before it",
    "torchvision:vgg11": r"pooling before the head 'classifier.6'.*name that module \(teacher_layer=\)",
    "timm:dla46x_c": "no single linear layer is known that makes its logits",
    "timm:deit_tiny_distilled_patch16_224": "from several heads",
}


@pytest.mark.parametrize("name", NOT_KNOWN)
def test_networks_that_nobody_knows_to_pool_are_refused_before_they_run(name: str) -> None:
    skip_where_unknown(name)
    description = describe(outline(lambda: build(name, CLASSES)))
    with pytest.raises(ValueError, match=NOT_KNOWN[name]):
        class_map_tap(description, "teacher")


class Net(nn.Module):
    """A network of the right form, unless told otherwise."""

    def __init__(self, *after_pooling: nn.Module, scale: float = 1.0, size: int = 4) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True)))
        self.layer2 = nn.Sequential(nn.Sequential(nn.Conv2d(6, size, 3), nn.ReLU()))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.between = nn.Sequential(*after_pooling)
        self.fc = nn.Linear(size, CLASSES)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.layer2(self.layer1(x))).flatten(1)
        return self.scale * self.fc(self.between(x))


def prove(model: nn.Module, tap: Tap | None = None, side: int = 8) -> None:
    tap = tap or class_map_tap(describe(model), "student")
    prove_class_maps(model, tap, "fc", torch.empty(2, 3, side, side), "student")


def test_the_proof_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = Net(nn.Dropout())
    model.layer1.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    wrong = Net(nn.BatchNorm1d(4))
    torch.manual_seed(3)
    states = (torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    prove(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(CaptureError):
        prove(wrong)
    assert torch.equal(torch.random.get_rng_state(), states[0])


def test_a_fresh_norm_between_pooling_and_head_is_found_though_it_does_nothing_yet() -> None:
    with pytest.raises(
        CaptureError, match=r"student has no class maps .* between them lies between\.0 \(BatchNorm1d\)"
    ):
        prove(Net(nn.BatchNorm1d(4)))


def test_a_fresh_network_that_gives_only_zeros_without_its_norms_is_proved() -> None:
    model = Net()
    layers = [nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()) for _ in range(12)]
    for layer in layers:
        nn.init.normal_(layer[0].weight, std=1e-5)
    model.layer1.extend(layers)
    model.layer2[0][0].bias.data.zero_()
    assert not model.eval().layer2(model.layer1(torch.randn(2, 3, 8, 8))).any()
    prove(model)


def test_a_head_of_zeros_is_proved_by_what_it_takes() -> None:
    model = Net()
    nn.init.zeros_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)
    prove(model)
    model.between = nn.Sequential(nn.LayerNorm(4))
    with pytest.raises(CaptureError, match=r"differs from what the head fc takes by [\d.]+e[-+]\d+ of the largest"):
        prove(model)


@pytest.mark.parametrize("zeros", [False, True])
def test_logits_changed_after_the_head_are_found_even_when_they_are_zeros(zeros: bool) -> None:
    model = Net(scale=0.5)
    if zeros:
        nn.init.zeros_(model.fc.weight)
        nn.init.zeros_(model.fc.bias)
    with pytest.raises(CaptureError, match=r"logits are not what its head fc gives, they differ by 1\.0e\+00"):
        prove(model)


def test_a_head_that_does_more_than_multiply_and_add_is_found() -> None:
    class Cosine(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return functional.normalize(input) @ functional.normalize(self.weight).T

    model = Net()
    model.fc = Cosine(4, CLASSES)
    with pytest.raises(CaptureError, match=r"its head fc \(Cosine\) gives something else than weight · input \+ bias"):
        prove(model)


def test_a_head_without_bias_and_a_network_in_bfloat16_are_proved() -> None:
    torch.manual_seed(0)
    model = Net()
    model.fc = nn.Linear(4, CLASSES, bias=False)
    prove(model)
    description = describe(model)
    image = torch.empty(2, 3, 16, 16, dtype=torch.bfloat16)
    prove_class_maps(model.bfloat16(), class_map_tap(description, "student"), "fc", image, "student")


def test_values_that_cannot_be_class_maps_are_refused_by_their_shape() -> None:
    with pytest.raises(CaptureError, match="one position only; it lies after the pooling, or the images are too small"):
        prove(Net(), Tap("avgpool"))
    with pytest.raises(CaptureError, match="one position only"):
        prove(Net(), side=5)
    with pytest.raises(CaptureError, match="has no positions, it lies after the pooling"):
        prove(Net(nn.Identity()), Tap("between"))
    with pytest.raises(CaptureError, match="has 6 channels for 2 images, and the head fc takes 4 for 2"):
        prove(Net(), Tap("layer1"))


def test_a_head_at_every_position_and_a_network_of_zeros_are_refused() -> None:
    class Late(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.layer2(self.layer1(x)).flatten(2).transpose(1, 2)).mean(1)

    with pytest.raises(CaptureError, match=r"takes a value of shape \(2, 16, 4\), so nothing was pooled"):
        prove(Late(), Tap("layer2"))
    dead = Net()
    nn.init.constant_(dead.layer2[0][0].bias, -100.0)
    with pytest.raises(CaptureError, match="all zeros, so nothing can be proved"):
        prove(dead)


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    model = Net()
    with pytest.raises(CaptureError, match="its head layer1 is a Sequential, not a linear layer"):
        prove_class_maps(model, Tap("layer2"), "layer1", torch.empty(2, 3, 8, 8), "student")


def test_the_users_layer_is_taken_where_it_is_given() -> None:
    description = describe(Net())
    assert class_map_tap(description, "student") == Tap("avgpool", "input")
    assert class_map_tap(description, "student", "layer2") == Tap("layer2")
    prove(Net(), class_map_tap(description, "student", "layer2"))
    unknown = Description((), head="fc")
    assert class_map_tap(unknown, "student", "trunk") == Tap("trunk")
    with pytest.raises(ValueError, match=r"name that module \(student_layer=\)"):
        class_map_tap(unknown, "student")
    with pytest.raises(ValueError, match="the teacher has no class maps: no single linear layer"):
        class_map_tap(Description(()), "teacher", "trunk")


class Scaled(nn.Module):
    """Global average pooling and a linear head, with learned factors that begin at one on either side of it."""

    def __init__(self, before: bool, after: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(6, 4)
        self.before = nn.Parameter(torch.ones(6)) if before else None
        self.after = nn.Parameter(torch.ones(())) if after else None

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).mean((2, 3))
        logits = self.fc(pooled if self.before is None else pooled * self.before)
        return logits if self.after is None else logits * self.after


@pytest.mark.parametrize(("before", "after", "name"), [(True, False, "before"), (False, True, "after")])
def test_what_is_learned_between_pooling_and_logits_is_refused_though_it_does_nothing_yet(
    before: bool, after: bool, name: str
) -> None:
    torch.manual_seed(0)
    image, tap = torch.empty(2, 3, 8, 8), Tap("features")
    prove_class_maps(Scaled(False, False), tap, "fc", image, "student")
    with pytest.raises(CaptureError, match=f"{name} acts between"):
        prove_class_maps(Scaled(before, after), tap, "fc", image, "student")
    frozen = Scaled(before, after).requires_grad_(False)
    prove_class_maps(frozen, tap, "fc", image, "teacher")


def test_a_norm_between_pooling_and_head_shows_even_where_it_is_shared_between_processes() -> None:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
    parts = OrderedDict(
        features=features, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), norm=nn.BatchNorm1d(6), fc=nn.Linear(6, 4)
    )
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(parts))
    assert isinstance(model.get_submodule("norm"), nn.SyncBatchNorm)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CaptureError, match="has no class maps at features"):
        prove_class_maps(model, Tap("features"), "fc", torch.empty(2, 3, 8, 8), "student")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
