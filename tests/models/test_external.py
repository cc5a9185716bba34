"""Stages, layouts, heads and inputs of other people's networks, proved by running them."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from attention_transfer.capture import Tap, spatial
from attention_transfer.models import Input, Stage, TransformersClassifier, build, describe
from attention_transfer.models.meta_networks import outline

# Image side; layout, prefix tokens and number of stages; (channels, side) of the first and of the last; where the value
# before the activation is (i: input of an activation, =: the output itself, -: unknown); path of the head.
NETWORKS = {
    "timm:resnet18": (224, "nchw", 0, 4, (64, 56), (512, 7), "iiii", "fc"),
    "timm:resnet34": (224, "nchw", 0, 4, (64, 56), (512, 7), "iiii", "fc"),
    "timm:resnet50": (224, "nchw", 0, 4, (256, 56), (2048, 7), "iiii", "fc"),
    "timm:efficientnet_b3": (288, "nchw", 0, 7, (24, 144), (384, 9), "=======", "classifier"),
    "timm:convnext_atto": (224, "nchw", 0, 4, (40, 56), (320, 7), "====", "head.fc"),
    "timm:mobilenetv1_100": (224, "nchw", 0, 5, (64, 112), (1024, 7), "iiiii", "classifier"),
    "timm:mobilenetv2_050": (224, "nchw", 0, 7, (8, 112), (160, 7), "=======", "classifier"),
    "timm:mobilenetv3_small_050": (224, "nchw", 0, 6, (8, 56), (288, 7), "=====i", "classifier"),
    "timm:regnetx_002": (224, "nchw", 0, 4, (24, 56), (368, 7), "iiii", "head.fc"),
    "timm:vgg11_bn": (224, "nchw", 0, 5, (64, 224), (512, 14), "iiiii", "head.fc"),
    "timm:densenet121": (224, "nchw", 0, 4, (256, 56), (1024, 7), "====", "classifier"),
    "timm:inception_v3": (299, "nchw", 0, 3, (288, 35), (2048, 8), "---", "fc"),
    "timm:rexnet_100": (224, "nchw", 0, 5, (16, 112), (1280, 7), "====-", "head.fc"),
    "timm:swin_tiny_patch4_window7_224": (224, "nhwc", 0, 4, (96, 56), (768, 7), "====", "head.fc"),
    "timm:samvit_base_patch16": (1024, "nhwc", 0, 12, (768, 64), (768, 64), "=" * 12, "head.fc"),
    "timm:levit_128s": (224, "tokens", 0, 3, (128, 14), (384, 4), "===", None),
    "timm:vit_tiny_patch16_224": (224, "tokens", 1, 12, (192, 14), (192, 14), "=" * 12, "head"),
    "timm:deit_tiny_distilled_patch16_224": (224, "tokens", 2, 12, (192, 14), (192, 14), "=" * 12, None),
    "timm:vit_small_patch14_reg4_dinov2": (518, "tokens", 5, 12, (384, 37), (384, 37), "=" * 12, "head"),
    "timm:cait_xxs24_224": (224, "tokens", 0, 24, (192, 14), (192, 14), "=" * 24, "head"),
    "torchvision:resnet18": (224, "nchw", 0, 4, (64, 56), (512, 7), "iiii", "fc"),
    "torchvision:resnet50": (224, "nchw", 0, 4, (256, 56), (2048, 7), "iiii", "fc"),
    "torchvision:vgg11": (224, "nchw", 0, 5, (64, 224), (512, 14), "iiiii", "classifier.6"),
    "torchvision:mobilenet_v2": (224, "nchw", 0, 7, (16, 112), (320, 7), "=======", "classifier.1"),
    "torchvision:mobilenet_v3_small": (224, "nchw", 0, 5, (16, 56), (96, 7), "=====", "classifier.3"),
    "torchvision:efficientnet_b0": (224, "nchw", 0, 7, (16, 112), (320, 7), "=======", "classifier.1"),
    "torchvision:convnext_tiny": (224, "nchw", 0, 4, (96, 56), (768, 7), "====", "classifier.2"),
    "torchvision:densenet121": (224, "nchw", 0, 4, (256, 56), (1024, 7), "====", "classifier"),
    "torchvision:googlenet": (224, "nchw", 0, 3, (480, 28), (1024, 7), "---", "fc"),
    "torchvision:squeezenet1_0": (224, "nchw", 0, 3, (256, 54), (512, 13), "---", None),
    "torchvision:swin_t": (224, "nhwc", 0, 4, (96, 56), (768, 7), "====", "head"),
    "torchvision:vit_b_16": (224, "tokens", 1, 12, (768, 14), (768, 14), "=" * 12, "heads.head"),
}


def run_and_read(model: nn.Module, taps: list[Tap], image: Tensor) -> dict[Tap, Tensor]:
    """Values at taps after one run, by plain hooks, so that nothing here depends on the library's own capture."""
    values: dict[Tap, Tensor] = {}

    def keep(tap: Tap, value: Tensor) -> None:
        values[tap] = value.clone()

    for tap in taps:
        module = model.get_submodule(tap.module)
        if tap.site == "input":
            module.register_forward_pre_hook(lambda _, given, tap=tap: keep(tap, given[0]))
        else:
            module.register_forward_hook(lambda _, __, output, tap=tap: keep(tap, output))
    with torch.no_grad():
        model.eval()(image)
    return values


def pre_activations(model: nn.Module) -> str:
    """One letter per stage, as in the table."""
    letters = {("input",): "i", ("output",): "=", (): "-"}
    return "".join(letters[(s.pre_activation.site,) if s.pre_activation else ()] for s in describe(model).stages)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_described_tap_yields_the_shape_of_its_layout(name: str) -> None:
    side, layout, prefix, count, first, last, before, head = NETWORKS[name]
    model = outline(lambda: build(name, 10)).to("meta")
    description = describe(model)
    taps = [stage.output for stage in description.stages]
    values = run_and_read(model.to("meta"), taps, torch.empty(2, 3, side, side, device="meta"))
    assert len(taps) == count
    assert {(tap.layout, tap.prefix_tokens) for tap in taps} == {(layout, prefix)}
    maps = [spatial(values[tap], tap) for tap in taps]
    assert {tuple(values[tap].shape)[1:] for tap in taps if layout == "nchw"} <= {tuple(m.shape)[1:] for m in maps}
    assert tuple(maps[0].shape) == (2, first[0], first[1], first[1])
    assert tuple(maps[-1].shape) == (2, last[0], last[1], last[1])
    assert pre_activations(model) == before
    assert description.head == head
    if head is not None:
        linear = model.get_submodule(head)
        assert isinstance(linear, nn.Linear)
        assert linear.out_features == 10


@pytest.mark.parametrize(
    "name",
    [
        "resnet8",
        "timm:resnet18",
        "timm:resnet26",
        "timm:regnetx_002",
        "timm:vgg11_bn",
        "timm:mobilenetv1_100",
        "timm:mobilenetv3_small_050",
        "torchvision:resnet18",
        "torchvision:resnet50",
        "torchvision:regnet_x_400mf",
        "torchvision:vgg11",
    ],
)
def test_the_activation_of_a_pre_activation_is_the_stage_output(name: str) -> None:
    torch.manual_seed(0)
    model = outline(lambda: build(name, 10)).to("meta")
    stages = describe(model).stages
    if "vgg" in name:
        # Its linear layers are large, and not read here.
        model = nn.Sequential(OrderedDict(features=model.get_submodule("features")))
    model.to_empty(device="cpu")
    for module in model.modules():
        # Also undoes norms that start at zero, after which a sum of two branches would be positive already.
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    taps = [tap for stage in stages for tap in (stage.output, stage.pre_activation) if tap is not None]
    values = run_and_read(model, taps, torch.randn(1, 3, 64, 64))
    befores = [s for s in stages if s.pre_activation is not None and s.pre_activation.site == "input"]
    assert befores
    for stage in befores:
        assert stage.pre_activation is not None
        before, activation = values[stage.pre_activation], type(model.get_submodule(stage.pre_activation.module))
        assert before.min() < 0
        torch.testing.assert_close(activation()(before), values[stage.output], rtol=0, atol=0)


def test_inputs_are_what_the_libraries_publish() -> None:
    timm_vit, timm_resnet, torchvision_resnet = (
        outline(lambda name=name: build(name, 10))
        for name in ("timm:vit_tiny_patch16_224", "timm:resnet18", "torchvision:resnet18")
    )
    timm_small = outline(lambda: build("timm:vit_tiny_patch16_224", 10, image_size=32))
    torchvision_vit = outline(lambda: build("torchvision:vit_b_16", 10, image_size=64))
    imagenet = Input((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    half = (0.5, 0.5, 0.5)
    assert describe(timm_resnet).input == imagenet
    assert describe(torchvision_resnet).input == imagenet
    assert describe(torchvision_vit).input == Input(imagenet.mean, imagenet.std, (64, 64))
    assert describe(timm_vit).input == Input(half, half, (224, 224))
    assert describe(timm_small).input == Input(half, half, (32, 32))
    assert describe(build("resnet8", 10)).input is None


def test_an_oblong_grid_of_patches_is_known() -> None:
    import timm

    model = outline(lambda: timm.create_model("vit_tiny_patch16_224", img_size=(64, 96))).to("meta")
    tap = describe(model).stages[0].output
    value = run_and_read(model, [tap], torch.empty(1, 3, 64, 96, device="meta"))[tap]
    assert tuple(spatial(value, tap).shape) == (1, 192, 4, 6)


def test_convolutional_networks_are_told_from_transformers() -> None:
    for name in ("resnet8", "timm:convnext_atto", "timm:vgg11", "torchvision:squeezenet1_0"):
        assert describe(outline(lambda name=name: build(name, 10))).convolutional
    for name in ("timm:vit_tiny_patch16_224", "torchvision:swin_t", "timm:mixer_s16_224"):
        assert not describe(outline(lambda name=name: build(name, 10))).convolutional


def test_networks_without_norms_are_known_as_such() -> None:
    """Timm's are called NormFreeNet, after what they have not."""
    for name in ("resnet8", "timm:convnext_atto", "timm:regnety_002"):
        assert describe(outline(lambda name=name: build(name, 10))).normalised
    for name in ("timm:vgg11", "torchvision:squeezenet1_0", "timm:dm_nfnet_f0"):
        assert not describe(outline(lambda name=name: build(name, 10))).normalised


def test_a_network_that_nobody_knows_has_no_stages_and_no_head() -> None:
    description = describe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)))
    assert (description.stages, description.head, description.input) == ((), None, None)


class OwnBlock(nn.Module):
    """Its last ReLU is a function that no module shows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.conv(x)).relu()


class OwnNet(nn.Module):
    """A user's network, written as many are."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.backbone.layer2 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.backbone.layer3 = nn.Sequential(OwnBlock(4), OwnBlock(4))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone.get_submodule("layer2")(self.backbone.get_submodule("layer1")(x))
        return self.fc(self.backbone.get_submodule("layer3")(x).mean((2, 3)))


def test_stages_of_a_user_are_found_by_their_names_and_nothing_is_guessed_about_their_blocks() -> None:
    description = describe(OwnNet())
    assert [stage.output.module for stage in description.stages] == [f"backbone.layer{i}" for i in (1, 2, 3)]
    assert [str(stage.pre_activation) for stage in description.stages] == [
        "input of backbone.layer1.1",
        "backbone.layer2",
        "None",
    ]
    assert description.head == "fc"


def test_a_network_that_declares_its_stages_is_taken_at_its_word() -> None:
    model = OwnNet()
    stages = (Stage(Tap("backbone.layer2"), None), Stage(Tap("backbone.layer3"), Tap("backbone.layer3.1.conv")))
    model.declared_stages = stages
    assert describe(model).stages == stages
    assert describe(model).convolutional


def tiny_vit(**changes: int | list[int]) -> TransformersClassifier:
    """A transformers ViT of two blocks on 4×4 patches."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**{**sizes, "image_size": 32, "patch_size": 8, "num_labels": 5, **changes})
    return TransformersClassifier(transformers.ViTForImageClassification(config))


def test_a_transformers_model_is_described_and_gives_its_logits() -> None:
    model = tiny_vit()
    description = describe(model)
    taps = [stage.output for stage in description.stages]
    values = run_and_read(model, taps, torch.randn(2, 3, 32, 32))
    assert len(taps) == 2
    assert [tuple(spatial(values[tap], tap).shape) for tap in taps] == [(2, 16, 4, 4)] * 2
    assert {tap.prefix_tokens for tap in taps} == {1}
    assert [stage.pre_activation for stage in description.stages] == taps
    assert tuple(model(torch.randn(2, 3, 32, 32)).shape) == (2, 5)
    head = model.get_submodule(description.head or "")
    assert isinstance(head, nn.Linear)
    assert head.out_features == 5
    assert not description.convolutional


def test_a_transformers_model_without_the_wrapper_is_described_alike() -> None:
    model = tiny_vit()
    wrapped, plain = describe(model), describe(model.wrapped)
    assert [s.output.module for s in wrapped.stages] == [f"wrapped.{s.output.module}" for s in plain.stages]
    assert wrapped.head == f"wrapped.{plain.head}"


@pytest.mark.parametrize(
    ("kind", "options", "layout", "shapes"),
    [
        (
            "resnet",
            {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8, "layer_type": "basic"},
            "nchw",
            [8, 16],
        ),
        (
            "segformer",
            {"depths": [1, 1], "hidden_sizes": [8, 16], "num_encoder_blocks": 2, "num_attention_heads": [1, 2]},
            "nchw",
            [8, 16],
        ),
        ("convnext", {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2}, "nchw", [8, 16]),
    ],
)
def test_hierarchies_of_transformers_are_described(
    kind: str, options: dict[str, object], layout: str, shapes: list[int]
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(kind, num_labels=3, **options)
    model = TransformersClassifier(transformers.AutoModelForImageClassification.from_config(config))
    description = describe(model)
    taps = [stage.output for stage in description.stages]
    if kind == "segformer" and int(transformers.__version__.partition(".")[0]) < 5:
        # Before version 5 no module of it ends a stage.
        assert description.stages == ()
        return
    values = run_and_read(model, taps, torch.randn(1, 3, 32, 32))
    assert [tap.layout for tap in taps] == [layout] * len(shapes)
    assert [spatial(values[tap], tap).shape[1] for tap in taps] == shapes
    if kind == "resnet":
        before = description.stages[-1].pre_activation
        assert before is not None
        torch.testing.assert_close(
            run_and_read(model, [before], torch.zeros(1, 3, 32, 32))[before].shape, values[taps[-1]].shape
        )
