"""Last layers that nobody trained, what is averaged before them, and batch norms before activations."""

import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from tests.known import skip_where_unknown
from torch import Tensor, nn

from attention_transfer.capture import Tap
from attention_transfer.models import build, describe, open_model, save_model
from attention_transfer.models.introspection.pooling import average_over, between
from attention_transfer.models.introspection.pre_activations import batch_norm_before
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


# ---------------------------------------------------------------- last layers that nobody trained

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
IMAGE = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


def output(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(IMAGE)


@pytest.fixture(params=["ViT", "Dinov2"])
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Weights of a network of transformers without a last layer for classes."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{request.param}Config")(**SIZES)
    torch.manual_seed(0)
    getattr(transformers, f"{request.param}Model")(config).save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def test_a_backbone_of_transformers_has_no_classes(backbone: Path) -> None:
    opened = open_model(f"hf:{backbone}@pretrained", 2)
    again = open_model(f"hf:{backbone}@pretrained", 2)
    assert (opened.num_classes, opened.trained, opened.description.head) == (0, True, None)
    assert "no last layer: it gives features" in opened.notes[0]
    # A last layer drawn at random would differ from opening to opening.
    assert torch.equal(output(opened.module), output(again.module))


def test_a_backbone_that_starts_a_student_gets_a_last_layer_and_says_so(backbone: Path, tmp_path: Path) -> None:
    opened = open_model(f"hf:{backbone}@pretrained", 5, new_head=True)
    assert opened.num_classes == 5
    assert output(opened.module).shape == (2, 5)
    assert "its last layer is new, for 5 classes" in opened.notes[0]
    headless = open_model(f"hf:{backbone}@pretrained")
    (tmp_path / "run").mkdir()
    save_model(headless.module, tmp_path / "run", headless.name, headless.num_classes)
    assert torch.equal(output(open_model(str(tmp_path / "run")).module), output(headless.module))


def test_a_backbone_that_transformers_builds_with_a_last_layer_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(tmp_path)
    loads = transformers.AutoModelForImageClassification.from_pretrained

    def refuses(*arguments: object, config: object, **options: object) -> object:
        if not config.num_labels:  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError("a last layer of no classes")
        return loads(*arguments, config=config, **options)

    monkeypatch.setattr(transformers.AutoModelForImageClassification, "from_pretrained", refuses)
    with pytest.raises(ValueError, match="has no trained last layer"):
        open_model(f"hf:{tmp_path}@pretrained")


@pytest.fixture
def local(tmp_path: Path) -> str:
    """A published network of timm on disk, without a last layer, as those of self-supervised trainings are."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0, img_size=32)
    settings = {"num_classes": 0, "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "classifier": "head"}
    config = {"architecture": "test_vit", "num_classes": 0, "model_args": {"img_size": 32}, "pretrained_cfg": settings}
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config))
    return f"timm:local-dir:{tmp_path}"


def test_a_published_network_of_timm_without_a_last_layer_has_no_classes(local: str) -> None:
    opened = open_model(f"{local}@pretrained", 64)
    assert (opened.num_classes, opened.trained, opened.description.head) == (0, True, None)
    assert "no last layer: it gives features" in opened.notes[0]
    fresh = open_model(f"{local}@pretrained", 4, new_head=True)
    assert (fresh.num_classes, output(fresh.module).shape) == (4, (2, 4))
    assert "its last layer is new" in fresh.notes[0]


@pytest.mark.parametrize("form", ["name@file", "file", "folder", "hf"])
@pytest.mark.parametrize("classes", [6, 4])
def test_a_new_last_layer_is_new_also_where_it_has_as_many_classes(form: str, classes: int, tmp_path: Path) -> None:
    if form == "hf":
        transformers = pytest.importorskip("transformers")
        config = transformers.ViTConfig(**SIZES, intermediate_size=32, num_labels=6)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
        spec, head = f"hf:{tmp_path}@pretrained", "wrapped.classifier.weight"
    else:
        model, head = build("resnet8", 6), "fc.weight"
        save_model(model, tmp_path, "resnet8", 6)
        torch.save(model.state_dict(), tmp_path / "file.pt")
        file = tmp_path / "file.pt"
        spec = {"name@file": f"resnet8@{file}", "file": str(file), "folder": str(tmp_path)}[form]
    own = open_model(spec).module.get_parameter(head)
    opened = open_model(spec, classes, new_head=True)
    found = opened.module.get_parameter(head)
    assert found.shape[0] == classes
    assert "its last layer is new" in opened.notes[-1]
    assert classes != 6 or not torch.equal(found, own)


def test_a_new_network_needs_no_word_about_its_last_layer() -> None:
    assert open_model("resnet8", 4, new_head=True).notes == ()


@pytest.mark.parametrize("name", ["timm:lcnet_035", "timm:resnet18.none_in1k"])
def test_a_network_of_timm_without_published_weights_is_refused_in_words(name: str) -> None:
    with pytest.raises(ValueError, match=r"timm:.* (no published weights|weights that timm does not list)"):
        open_model(f"{name}@pretrained")


# ---------------------------------------------------------------- the batch norm that makes what an activation takes

FOUND = {
    "resnet14": ["layer1.1.bn2", "layer2.1.bn2", "layer3.1.bn2"],
    "resnet50_cifar": ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"],
    "wrn_16_1": ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"],
    "vgg8": ["block1.1", "block2.1", "block3.1", "block4.1"],
    "mobilenetv2_half": ["blocks.1.1.conv.7", "blocks.2.2.conv.7", "blocks.4.2.conv.7", "blocks.6.0.conv.7"],
    "shufflenetv1": ["layer1.3.bn3", "layer2.7.bn3", "layer3.3.bn3"],
    # Half of the channels come from elsewhere, and all are shuffled.
    "shufflenetv2": [None, None, None],
}


def found(model: nn.Module) -> list[str | None]:
    return [batch_norm_before(model, stage.pre_activation) for stage in describe(model).stages]


@pytest.mark.parametrize("name", FOUND)
def test_it_is_found_in_the_networks_of_this_library(name: str) -> None:
    model = build(name, 5)
    assert found(model) == FOUND[name]
    for path in filter(None, FOUND[name]):
        assert isinstance(model.get_submodule(path), nn.BatchNorm2d)


def test_it_is_found_where_one_activation_serves_all_convolutions() -> None:
    last = {"resnet18": "bn2", "resnet50": "bn3"}
    for name, norm in last.items():
        paths = found(torchvision.models.get_model(name))
        assert [path.rpartition(".")[2] for path in paths] == [norm] * 4
        assert all(path.startswith(f"layer{i}.") for i, path in enumerate(paths, start=1))
    assert [path.rpartition(".")[2] for path in found(timm.create_model("resnet26"))] == ["bn3"] * 4


def test_networks_without_batch_norm_have_none() -> None:
    assert set(found(timm.create_model("convnext_atto"))) == {None}
    assert set(found(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2))) == {None}
