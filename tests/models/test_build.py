"""Networks by name and with arguments, for images of any channels, and what is said about names that nobody knows."""

import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attention_transfer.models import (
    TransformersClassifier,
    WeightsError,
    bare,
    build,
    check_channels,
    describe,
    open_model,
    save_model,
)
from attention_transfer.models.known_names import check_name, is_name
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.zoo.resnet import ResNet
from attention_transfer.runs import STUDENT_CONFIG, STUDENT_WEIGHTS

SIZES = "img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2"
VIT = f"timm:vit_tiny_patch16_224({SIZES})"
POOLED = f'timm:vit_tiny_patch16_224({SIZES}, global_pool="avg")'
TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
IMAGE = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)


def output(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IMAGE)


@pytest.fixture
def headless(tmp_path: Path) -> Path:
    """Weights of a transformer without its last layer, as a pre-training leaves them."""
    weights = {key: value for key, value in build(VIT, 3).state_dict().items() if not key.startswith("head.")}
    safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_arguments_reach_the_library() -> None:
    model = build(VIT, 3)
    assert isinstance(model, VisionTransformer)
    assert (model.embed_dim, len(model.blocks), model.patch_embed.grid_size) == (24, 2, (4, 4))
    assert output(model).shape == (1, 3)
    narrow = build("torchvision:resnet50(width_per_group=8)", 3)
    assert narrow.get_submodule("layer1.0.conv2").weight.shape == (8, 8, 3, 3)


def test_arguments_change_the_configuration_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(TINY_VIT))
    model = build(f"hf:{tmp_path}(num_hidden_layers=1, image_size=16)", 3)
    assert model.wrapped.config.num_hidden_layers == 1
    assert output(model).shape == (1, 3)
    with pytest.raises(ValueError, match="has no width, size in its configuration"):
        build(f"hf:{tmp_path}(width=1, size=2)", 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:vit_tiny_patch16_224(width=3)", "cannot be built with width=3: .*unexpected keyword argument 'width'"),
        ("timm:resnet10t(img_size=32)", "cannot be built with img_size=32: .*unexpected keyword argument 'img_size'"),
        ("timm:vit_tiny_patch16_224(num_heads=5)", "cannot be built .*: dim should be divisible by num_heads"),
        ("torchvision:resnet18(width=3)", "cannot be built with width=3: .*unexpected keyword argument 'width'"),
        ("resnet8(width=3)", "resnet8 takes no arguments"),
        ("resnet9(width=3)", "unknown model 'resnet9'; close to it: .*resnet8"),
        ("timm:vit_tny_patch16_224(depth=3)", "unknown model 'timm:vit_tny_patch16_224'; close .*vit_tiny_patch16_224"),
    ],
)
def test_what_the_library_refuses_is_said_in_its_words(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, 3)


def test_a_size_can_be_said_twice_but_not_differently() -> None:
    assert build(VIT, 3, image_size=16)
    with pytest.raises(ValueError, match=r"written with img_size=16, but .* images of 32 pixels: leave img_size out"):
        build(VIT, 3, image_size=32)
    with pytest.raises(ValueError, match=r"written with image_size=32, but .* images of 16 pixels"):
        build("torchvision:vit_b_16(image_size=32)", 3, image_size=16)
    grown = build(VIT.replace("img_size=16, ", ""), 3, image_size=24)
    assert isinstance(grown, VisionTransformer)
    assert grown.patch_embed.grid_size == (6, 6)


def test_a_name_with_arguments_is_a_name() -> None:
    assert is_name(VIT)
    check_name(VIT)
    with pytest.raises(ValueError, match="key=value"):
        check_name("timm:vit_tiny_patch16_224(16)")


@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_saved_network_opens_and_its_instructions_load_it(
    num_classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(POOLED, num_classes)
    save_model(model, tmp_path, POOLED, num_classes, 16)
    opened = open_model(str(tmp_path), 7)
    assert (opened.name, opened.num_classes, opened.image_size) == (POOLED, num_classes, 16)
    assert torch.equal(output(opened.module), output(model))
    assert torch.equal(output(open_model(f"{POOLED}@{tmp_path / STUDENT_WEIGHTS}").module), output(model))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, nn.Module] = {}
    exec(f"import timm, safetensors.torch; {json.loads(Path(STUDENT_CONFIG).read_text())['load']}", scope)
    assert torch.equal(output(scope["model"]), output(model))


def test_a_network_without_last_layer_gets_one_when_it_is_wanted(tmp_path: Path, headless: Path) -> None:
    bare = open_model(f"{VIT}@{headless}", 5)
    assert (bare.num_classes, bare.trained, bare.description.head, bare.notes) == (0, True, None, ())
    assert output(bare.module).shape == (1, 24)
    assert len(bare.description.stages) == 2
    save_model(bare.module, tmp_path, VIT, 0, 16)
    for spec in (f"{VIT}@{headless}", str(tmp_path)):
        new = open_model(spec, 5, new_head=True)
        assert (new.num_classes, new.description.head) == (5, "head")
        assert output(new.module).shape == (1, 5)
        assert torch.equal(new.module.state_dict()["blocks.1.mlp.fc2.weight"], bare.module.blocks[1].mlp.fc2.weight)


def test_the_norm_of_tokens_is_openly_left_out_where_the_network_norms_after_pooling(headless: Path) -> None:
    for new_head, classes in ((False, 0), (True, 5)):
        opened = open_model(f"{POOLED}@{headless}", 5, new_head=new_head)
        assert opened.num_classes == classes
        assert len(opened.notes) == 1 + new_head
        assert "the norm of the file is left out, and that of the network starts anew" in opened.notes[0]
        assert torch.equal(opened.module.fc_norm.weight, torch.ones(24))


def test_other_gaps_than_the_last_layer_are_refused(tmp_path: Path, headless: Path) -> None:
    weights = safetensors.torch.load_file(headless)
    del weights["blocks.1.mlp.fc2.weight"]
    safetensors.torch.save_file(weights, tmp_path / "gap.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing: blocks\.1\.mlp\.fc2\.weight"):
        open_model(f"{VIT}@{tmp_path / 'gap.safetensors'}", 5, new_head=True)
    other = VIT.replace("img_size=16", "img_size=24")
    with pytest.raises(WeightsError, match=r"(?s)1 differing in shape: pos_embed.*name the model with the img_size"):
        open_model(f"{other}@{headless}", 5)
    pooled = build(POOLED, 0).state_dict()
    safetensors.torch.save_file(pooled, tmp_path / "pooled.safetensors")
    with pytest.raises(WeightsError, match=r"2 missing: norm.weight, norm.bias\n.*2 unexpected: fc_norm"):
        open_model(f"{VIT}@{tmp_path / 'pooled.safetensors'}", 5)


def test_networks_of_other_libraries_need_their_last_layer(tmp_path: Path) -> None:
    weights = build("torchvision:squeezenet1_1", 3).state_dict()
    safetensors.torch.save_file(
        {key: value for key, value in weights.items() if not key.startswith("classifier")}, tmp_path / "w.safetensors"
    )
    with pytest.raises(WeightsError, match="2 missing: classifier"):
        open_model(f"torchvision:squeezenet1_1@{tmp_path / 'w.safetensors'}", 5)
    with pytest.raises(ValueError, match="at least one class, not 0"):
        build("torchvision:squeezenet1_1", 0)


# ---------------- networks by name, and what is said about names that nobody knows

TINY_CLASSIFIER = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture
def hf_folder(tmp_path: Path) -> Path:
    """A folder as transformers keeps its models, without weights."""
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(TINY_CLASSIFIER))
    return tmp_path


@pytest.mark.parametrize("name", ["resnet8", "timm:resnet18", "torchvision:resnet18", "torchvision:squeezenet1_1"])
def test_a_network_has_the_classes_asked_for(name: str) -> None:
    model = build(name, 7).eval()
    with torch.no_grad():
        assert tuple(model(torch.zeros(1, 3, 64, 64)).shape) == (1, 7)


@pytest.mark.parametrize("name", ["torchvision:googlenet", "torchvision:inception_v3"])
def test_networks_with_auxiliary_heads_give_plain_logits_in_training(name: str) -> None:
    with torch.random.fork_rng():
        model = build(name, 3).to("meta").train()
    assert tuple(model(torch.empty(2, 3, 299, 299, device="meta")).shape) == (2, 3)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet21", "resnet20"),
        ("timm:resnet81", "timm:resnet18"),
        ("torchvision:vgg_11", "torchvision:vgg11"),
        ("timn:resnet18", "timm:NAME"),
    ],
)
def test_an_unknown_name_is_refused_with_close_ones(name: str, close: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)unknown.*{name.partition(':')[0]}.*{close}"):
        build(name, 10)


def test_a_name_of_another_library_without_its_prefix_is_explained() -> None:
    with pytest.raises(ValueError, match="timm:NAME, torchvision:NAME or hf:NAME"):
        build("efficientnet_b0", 10)


def test_a_number_of_classes_is_needed() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        build("resnet8", None)
    with pytest.raises(ValueError, match="at least one class, not 0"):
        build("resnet8", 0)


def test_ours_have_no_published_weights() -> None:
    with pytest.raises(ValueError, match="resnet8@FILE"):
        build("resnet8", 10, pretrained=True)


def test_the_image_size_reaches_networks_that_take_one_and_no_others() -> None:
    vit = outline(lambda: build("timm:vit_tiny_patch16_224", 10, image_size=64))
    maxvit = outline(lambda: build("timm:maxvit_pico_rw_256", 10, image_size=64))
    outline(lambda: build("timm:resnet18", 10, image_size=64))
    torchvision_vit = outline(lambda: build("torchvision:vit_b_32", 10, image_size=64))
    outline(lambda: build("torchvision:resnet18", 10, image_size=64))
    assert vit.get_parameter("pos_embed").shape[1] == 1 + 4 * 4
    assert torchvision_vit.get_parameter("encoder.pos_embedding").shape[1] == 1 + 2 * 2
    expected = describe(maxvit).input
    assert expected is not None
    assert expected.size == (64, 64)


@pytest.mark.parametrize("depth", [2, 9, 21])
def test_a_residual_network_of_impossible_depth_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"6n \\+ 2.*{depth}"):
        ResNet(depth, (4, 4, 8, 8), 2)


def test_a_transformers_folder_gives_a_network_that_returns_logits(hf_folder: Path) -> None:
    model = build(f"hf:{hf_folder}", 6, image_size=16)
    assert isinstance(model, TransformersClassifier)
    assert tuple(model(torch.zeros(2, 3, 16, 16)).shape) == (2, 6)
    assert bare(model) is model.wrapped
    assert len(describe(model).stages) == 2


def test_bare_leaves_other_networks_alone() -> None:
    model = nn.Linear(1, 1)
    assert bare(model) is model


def test_pretrained_transformers_keep_their_weights_and_normalisation(hf_folder: Path) -> None:
    trained = build(f"hf:{hf_folder}", 6)
    bare(trained).save_pretrained(hf_folder)  # pyright: ignore[reportCallIssue]
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    (hf_folder / "preprocessor_config.json").write_text(json.dumps(processor))
    same, other = build(f"hf:{hf_folder}", None, pretrained=True), build(f"hf:{hf_folder}", 4, pretrained=True)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(same.eval()(image), trained.eval()(image))
        assert tuple(other(image).shape) == (1, 4)
    key = "embeddings.patch_embeddings.projection.weight"
    torch.testing.assert_close(
        other.get_parameter(f"wrapped.vit.{key}"), trained.get_parameter(f"wrapped.vit.{key}"), rtol=0, atol=0
    )
    expected = describe(same).input
    assert expected is not None
    assert (expected.mean, expected.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_transformers_name_that_is_no_folder_is_refused_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"config\.json"):
        build(f"hf:{tmp_path}", 2)


def test_a_missing_transformers_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'attention-transfer\[hf\]'"):
        build("hf:somebody/something", 2)


# ---------------- networks for images of other channels than data sets deliver


class Late(nn.Module):
    """A network whose first convolution in name is not the first in order, or that makes colours grey itself."""

    def __init__(self, grey: bool) -> None:
        super().__init__()
        self.later = nn.Conv2d(1 if grey else 4, 5, 1)
        self.stem = nn.Identity() if grey else nn.Conv2d(3, 4, 1)
        self.grey = grey

    def forward(self, image: Tensor) -> Tensor:
        image = image.mean(1, keepdim=True) if self.grey else self.stem(image)
        return self.later(image).mean((2, 3))


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:test_vit", "timm:test_mambaout"])
def test_other_channels_are_refused_by_their_number(name: str, channels: int) -> None:
    model = build(f"{name}(in_chans={channels})", 3, image_size=32)
    plural = "s" if channels > 1 else ""
    with pytest.raises(ValueError, match=rf"'x' takes images of {channels} channel{plural}, and data sets .* in 3"):
        check_channels(model, "x", (32, 32))


@pytest.mark.parametrize("name", ["resnet8", "timm:resnet10t", "timm:test_vit", "torchvision:squeezenet1_1"])
def test_networks_for_colours_are_not_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name, 3, image_size=32)
    monkeypatch.setattr(model, "forward", lambda image: pytest.fail("was run"))
    check_channels(model, name, (32, 32))


@pytest.mark.parametrize("grey", [True, False])
def test_a_network_that_takes_colours_all_the_same_passes_and_is_left_alone(grey: bool) -> None:
    model = Late(grey).train()
    before = torch.get_rng_state()
    check_channels(model, "x", (8, 8))
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_configuration_of_transformers_is_read() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, num_channels=1))
    with pytest.raises(ValueError, match="takes images of 1 channel, "):
        check_channels(model, "x", (32, 32))
