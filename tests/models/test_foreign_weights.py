"""Weights that are easily taken for something else, preprocessors' files, and small forms of large transformers."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor

from attention_transfer.models import Input, WeightsError, build, load_weights, open_model
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.naming import parse_name
from attention_transfer.models.preprocessing import images_of, preprocessing
from attention_transfer.models.untrained import smaller

Weights = dict[str, Tensor]
RED = "\x1b[31m"


def weights(seed: int = 0) -> Weights:
    torch.manual_seed(seed)
    return dict(build("resnet8", 3).state_dict())


def under(prefix: str, state: Weights) -> Weights:
    return {prefix + name: value for name, value in state.items()}


def saved(content: Any, tmp_path: Path, name: str = "file.pt") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(
    "prefix",
    ["module._orig_mod.", "_orig_mod.module.", "module.module.", "_orig_mod.module.backbone.", "ema.module.model."],
)
def test_several_wrappers_are_taken_off_at_once(prefix: str, tmp_path: Path) -> None:
    found = open_model(f"resnet8@{saved(under(prefix, weights()), tmp_path)}").module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights().items())


def test_an_average_of_no_steps_is_no_other_set_of_weights(tmp_path: Path) -> None:
    """A training that has just begun saves the same values twice."""
    for averaged in (weights(), {name: value.clone() for name, value in weights().items()}):
        found = open_model(
            f"resnet8@{saved({'model': weights(), 'model_ema': averaged}, tmp_path)}"
        ).module.state_dict()
        assert all(torch.equal(found[name], value) for name, value in weights().items())


@pytest.mark.parametrize("inside", ["code/__torch__/timm/models/resnet.py", "code/a.py"])
def test_torchscript_is_not_taken_for_an_exported_program(inside: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        for name in ("data.pkl", inside, "version"):
            archive.writestr(f"net/{name}", b"x")
    with pytest.raises(WeightsError, match=r"a program of TorchScript: load it with torch.jit.load where you trust it"):
        load_weights(build("resnet8", 3), tmp_path / "net.pt")


@pytest.mark.parametrize("part", ["archive_format", "models/model.json"])
def test_an_exported_program_is_named(part: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr(f"net/{part}", b"x")
    with pytest.raises(WeightsError, match=r"an exported program of torch.export"):
        load_weights(build("resnet8", 3), tmp_path / "net.pt2")


@pytest.mark.parametrize(
    "content",
    [
        {f"{RED}best": weights(0), "last": weights(1)},
        under(RED, weights()),
        {**weights(), RED: torch.ones(1)},
        {f"{RED}x": 1},
        {**weights(), "conv\u202e.weight\r": torch.ones(1)},
    ],
    ids=["keys", "prefix", "a tensor", "no tensors", "direction"],
)
def test_no_name_in_a_file_moves_the_cursor(content: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as refused:
        load_weights(build("resnet8", 3), saved(content, tmp_path, f"{RED}.pt"))
    assert not {"\x1b", "\u202e", "\r"} & set(str(refused.value))
    assert "\\x1b[31m" in str(refused.value)


def test_an_index_that_is_nested_without_end_is_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(WeightsError, match="no file of PyTorch weights but a JSON file"):
        load_weights(build("resnet8", 3), tmp_path / "model.safetensors.index.json")


def test_weights_are_found_at_any_depth(tmp_path: Path) -> None:
    content: Any = weights()
    for key in "abcdefg":
        content = {key: content}
    found = open_model(f"resnet8@{saved(content, tmp_path)}").module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights().items())


def test_mappings_that_hold_each_other_take_no_time(tmp_path: Path) -> None:
    first: dict[str, Any] = {"state_dict": weights()}
    first |= {f"again{i}": first for i in range(100)}
    opened = open_model(f"resnet8@{saved(first, tmp_path)}")
    assert torch.equal(opened.module.state_dict()["fc.weight"], weights()["fc.weight"])
    inner: dict[str, Any] = {"x": 1}
    for _ in range(8):
        inner = {f"{i}": inner for i in range(20)}
    with pytest.raises(WeightsError, match="holds more than 100,000 mappings in each other: it is no checkpoint"):
        open_model(f"resnet8@{saved(inner, tmp_path)}")


def test_indices_that_are_no_numbers_name_no_classes(tmp_path: Path) -> None:
    content = {"state_dict": weights(), "idx_to_class": {float("inf"): "a", 1: "b", 2: "c"}}
    assert open_model(f"resnet8@{saved(content, tmp_path)}").classes is None


# ---------------- what a preprocessor's file says of a network's images, in whatever way it says it

HALF = Input((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def assert_same(found: Input | None, wanted: Input) -> None:
    assert found is not None
    assert (*found.mean, *found.std) == pytest.approx((*wanted.mean, *wanted.std), rel=1e-9)


@pytest.mark.parametrize(
    "values",
    [
        {"image_mean": [0.5] * 3, "image_std": [0.25] * 3},
        {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_rescale": True, "rescale_factor": 0.00392156862745098},
        {"image_mean": 0.5, "image_std": 0.25},
        {"image_mean": [0.5], "image_std": [0.25]},
        {"image_mean": [127.5] * 3, "image_std": [63.75] * 3, "do_rescale": False},
        {"image_mean": [127.5] * 3, "image_std": [63.75] * 3, "rescale_factor": 1},
        {"image_mean": [1] * 3, "image_std": [0.5] * 3, "rescale_factor": 2 / 255},
    ],
)
def test_mean_and_deviation_are_those_of_pixels_from_0_to_1(values: dict[str, Any]) -> None:
    assert_same(images_of(values), HALF)


def test_images_that_are_not_normalised_are_known_to_be_so() -> None:
    """They were taken for images of which nothing is known."""
    usual = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_normalize": False}
    assert_same(images_of(usual), Input())
    assert_same(images_of({**usual, "do_rescale": False}), Input((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)))


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"image_mean": [0.5] * 4, "image_std": [0.5] * 4},
        {"image_mean": ["0.5"] * 3, "image_std": [0.5] * 3},
        {"image_mean": [0.5] * 3, "image_std": [0.5, 0.0, 0.5]},
        {"image_mean": [0.5] * 3, "image_std": [float("nan")] * 3},
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": "x"},
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_offset": True},
    ],
)
def test_what_does_not_tell_is_not_guessed(values: Any) -> None:
    assert images_of(values) is None


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b'"x"', b"null"])
def test_a_damaged_file_tells_nothing(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "preprocessor_config.json").write_bytes(content)
    assert preprocessing(str(tmp_path)) is None


def test_a_file_in_a_folder_is_read(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    said = {"image_processor_type": "ViTImageProcessor", "image_mean": [127.5] * 3, "image_std": [63.75] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**said, "do_rescale": False}))
    assert_same(preprocessing(str(tmp_path)), HALF)


# ---------------------------------------------------------------- small forms of large vision transformers


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
