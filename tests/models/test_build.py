"""Networks by name, and what is said about names that nobody knows."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from attention_transfer.models import TransformersClassifier, bare, build, describe
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.zoo.resnet import ResNet

TINY_VIT = {
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
    (tmp_path / "config.json").write_text(json.dumps(TINY_VIT))
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
