"""What is averaged before the head, found in the modules of a network that never runs."""

import pytest
from tests.known import skip_where_unknown
from torch import Tensor, nn

from attention_transfer.capture import Tap
from attention_transfer.models import build, describe
from attention_transfer.models.introspection.pooling import average_over, between
from attention_transfer.models.meta_networks import outline

# Where it is read; layout; prefix tokens. None where nobody knows.
POOLED = {
    "resnet20": ("input of avgpool", "nchw", 0),
    "timm:resnet18": ("input of global_pool", "nchw", 0),
    "timm:resnest14d": ("input of global_pool", "nchw", 0),
    "timm:densenet121": ("input of global_pool", "nchw", 0),
    "timm:regnety_002": ("input of head.global_pool", "nchw", 0),
    "timm:hrnet_w18_small": ("input of global_pool", "nchw", 0),
    "timm:mobilenetv3_small_050": ("input of global_pool", "nchw", 0),
    "timm:efficientvit_b0": ("input of head.global_pool", "nchw", 0),
    "timm:swin_tiny_patch4_window7_224": ("input of head.global_pool", "nhwc", 0),
    "timm:nest_tiny": ("input of global_pool", "nchw", 0),
    "timm:pvt_v2_b0": ("stages.3", "nchw", 0),
    "timm:mvitv2_tiny": ("norm", "tokens", 0),
    "timm:gmixer_12_224": ("norm", "tokens", 0),
    "timm:vit_srelpos_small_patch16_224": ("norm", "tokens", 0),
    "timm:vit_tiny_patch16_224": None,
    "timm:xcit_nano_12_p8_224": None,
    "timm:hiera_tiny_224": None,
    "timm:iformer_t": None,
    "timm:dla34": None,
    "torchvision:resnet18": ("input of avgpool", "nchw", 0),
    "torchvision:mobilenet_v2": ("features.18.2", "nchw", 0),
    "torchvision:shufflenet_v2_x0_5": ("conv5.2", "nchw", 0),
    "torchvision:mnasnet0_5": ("layers.16", "nchw", 0),
    "torchvision:swin_t": ("input of avgpool", "nchw", 0),
    "torchvision:vgg11": None,
    "torchvision:vit_b_16": None,
    "torchvision:squeezenet1_0": None,
}


@pytest.mark.parametrize("name", POOLED)
def test_what_is_pooled_is_found_with_the_layout_that_it_has_there(name: str) -> None:
    skip_where_unknown(name)
    pooled = describe(outline(lambda: build(name, 10))).pooled
    found = (str(pooled), pooled.layout, pooled.prefix_tokens) if pooled else None
    assert found == POOLED[name]


def test_the_class_token_is_left_out_of_the_mean_where_timm_says_that_the_patches_are_averaged() -> None:
    import timm

    settings = {"img_size": (64, 96), "global_pool": "avg", "fc_norm": False}
    model = outline(lambda: timm.create_model("vit_tiny_patch16_224", **settings))
    assert describe(model).pooled == Tap("norm", "output", "tokens", 1, (4, 6), patch=(16, 16))


class WithGates(nn.Module):
    """Its blocks pool globally for their gates; its own pooling is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2 = (self.block(3, 4), self.block(4, 8))
        self.fc = nn.Linear(8, 5)

    @staticmethod
    def block(given: int, made: int) -> nn.Sequential:
        gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(made, made, 1), nn.Sigmoid())
        return nn.Sequential(nn.Sequential(nn.Conv2d(given, made, 3), nn.ReLU(), gate))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


def test_poolings_inside_blocks_are_not_taken_for_the_one_before_the_head() -> None:
    assert describe(WithGates()).pooled == Tap("layer2")


def test_the_backbone_of_a_user_is_read_at_its_end() -> None:
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.layer1 = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    model.backbone.layer2 = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
    model.dropout, model.fc = nn.Dropout(), nn.Linear(4, 2)
    assert describe(model).pooled == Tap("backbone.layer2")
    model.backbone.pool = nn.AvgPool2d(8)
    assert describe(model).pooled == Tap("backbone.pool", "input")


def test_only_averages_over_every_position_count() -> None:
    assert average_over(nn.AdaptiveAvgPool2d((1, 1))) == "nchw"
    assert average_over(nn.AdaptiveAvgPool2d(7)) is None
    assert average_over(nn.AdaptiveMaxPool2d(1)) is None


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("resnet", {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8}, "input of resnet.pooler"),
        (
            "swin",
            {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
            "swin.layernorm",
        ),
        ("vit", {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}, None),
    ],
)
def test_models_of_transformers_are_read_alike_with_and_without_the_wrapper(
    kind: str, options: dict[str, object], expected: str | None
) -> None:
    pytest.importorskip("transformers")
    from attention_transfer.models.build import from_transformers_config

    model = from_transformers_config({"model_type": kind, **options}, 5, None)
    plain, wrapped = describe(model.wrapped), describe(model)
    assert (str(plain.pooled) if plain.pooled else None) == expected
    assert (wrapped.pooled is None) == (plain.pooled is None)
    assert wrapped.pooled is None or plain.pooled is None or wrapped.pooled.module == f"wrapped.{plain.pooled.module}"
    assert wrapped.architecture == plain.architecture
    assert "transformers.models" in plain.architecture


def test_an_architecture_is_the_same_for_networks_that_differ_in_size_only() -> None:
    names = ("resnet8", "resnet56", "resnet32x4")
    assert {describe(build(name, 10)).architecture for name in names} == {"attention_transfer.models.zoo.resnet.ResNet"}
    assert describe(outline(lambda: build("timm:resnet18", 10))).architecture == "timm.models.resnet.ResNet"


def test_what_computes_between_a_tap_and_the_head_is_listed() -> None:
    model = nn.Sequential()
    for name, module in {
        "body": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "norm": nn.BatchNorm1d(4),
        "drop": nn.Dropout(),
        "fc": nn.Linear(4, 2),
    }.items():
        model.add_module(name, module)
    after = ["norm (BatchNorm1d)"]
    assert between(model, Tap("pool", "input"), "fc") == after
    assert between(model, Tap("body"), "fc") == after
    assert between(model, Tap("body", "input"), "fc") == ["body.0 (Conv2d)", "body.1 (ReLU)", *after]
    assert between(model, Tap("norm"), "fc") == []
