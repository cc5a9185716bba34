"""Networks of sizes that no machine has room for are refused, in time and in a sentence."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.commands.hostile import rewrite, run_folder
from torch import nn

from attention_transfer.cli import main
from attention_transfer.errors import InputError
from attention_transfer.models import bounds, build, open_model
from attention_transfer.models.bounds import TooLargeError, bounded, built_within_bounds
from attention_transfer.models.meta_networks import outline
from attention_transfer.runs import STUDENT_CONFIG

VIT = "timm:vit_tiny_patch16_224"
SMALL = "img_size=32, patch_size=16, embed_dim=12, num_heads=2"
TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of half a GiB, so that a test of too much needs little."""
    monkeypatch.setattr(bounds, "main_memory", lambda: 2**29)
    monkeypatch.setattr(bounds, "_MOST_LAYERS", 2000)


@pytest.mark.parametrize(
    "arguments",
    [
        "depth='huge'",
        "depth=[2]",
        "depth=2.5",
        "depth=-1",
        "depth=10**9",
        "depth=1000000000",
        "depth=1000000",
        "depth=1e30",
        "depth=1e400",
        "depth=-1e30",
        "depth={1: 2}",
        pytest.param("embed_dim=0", marks=pytest.mark.filterwarnings("ignore:Initializing zero-element")),
        "embed_dim=-3",
        "embed_dim=1000000",
        "embed_dim=20000, depth=1",
        "embed_dim=12.0",
        "num_heads=0",
        "num_heads=-1",
        "num_heads=1e9",
        "img_size=1e30",
        "img_size=1000000",
        "img_size=0",
        "img_size=(32, 100000000)",
        "img_size=[32, 1000000], patch_size=1",
        "img_size=16384, patch_size=1",
        "patch_size=0",
        "patch_size=-4",
        "mlp_ratio=1e9",
        "mlp_ratio=100000.0",
        "mlp_ratio=-1",
        "mlp_ratio='wide'",
        "reg_tokens=1000000000",
        "in_chans=1000000000",
    ],
)
def test_arguments_of_no_network_are_refused_in_a_sentence(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    assert main(["cost", f"{VIT}({arguments})", "--num-classes", "3", "--device", "cpu"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:resnet18(width_per_group=1000000000)",
        "torchvision:resnet50(width_per_group=100000)",
        "torchvision:resnet18(layers=[1000000, 2, 2, 2])",
        "torchvision:vit_b_16(num_layers=1000000)",
        "torchvision:vit_b_16(hidden_dim=1000000, num_heads=1)",
        "torchvision:vgg11(dropout='much')",
        "torchvision:mobilenet_v2(width_mult=1e9)",
        "torchvision:mobilenet_v2(width_mult=1e5)",
        "torchvision:efficientnet_b0(dropout=None)",
        "timm:resnet10t(stem_width=1000000000)",
        "timm:resnet10t(layers=1000000)",
        "timm:mlp_mixer_s32_224(num_blocks=1000000)",
        "timm:swin_tiny_patch4_window7_224(depths=(1000000, 2, 2, 2))",
        "timm:swin_tiny_patch4_window7_224(window_size=10000, img_size=16384)",
        "timm:vit_tiny_patch16_224(depth=100000, distillation_token=True)",
    ],
)
def test_networks_of_every_library_are_bounded(name: str) -> None:
    with pytest.raises(InputError):
        open_model(name, 3)


@pytest.mark.parametrize("classes", [10**12, 10**30, -1, 2**24 + 1, 2**24, 2.5, True, "3"])
@pytest.mark.parametrize("name", ["resnet8", "timm:resnet10t", "torchvision:squeezenet1_1"])
def test_classes_of_no_network_are_refused(name: str, classes: Any) -> None:
    with pytest.raises(InputError):
        build(name, classes)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 5000},
        {"num_hidden_layers": "many"},
        {"num_hidden_layers": 1e30},
        {"hidden_size": 10**9},
        {"hidden_size": 10**6},
        {"hidden_size": "wide"},
        {"hidden_size": [16]},
        {"image_size": 10**9},
        {"image_size": 10**6, "patch_size": 1},
        {"patch_size": 0},
        {"intermediate_size": 10**8},
        {"num_attention_heads": 0},
        {"num_channels": 10**9},
        {"num_attention_heads": None},
    ],
    ids=repr,
)
def test_configurations_in_files_are_bounded(
    fields: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    run = run_folder(tmp_path / "run", model="hf:anything", image_size=None, transformers_config=TINY_VIT | fields)
    assert main(["evaluate", str(run), "--device", "cpu"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(json.dumps(TINY_VIT | fields))
    assert main(["cost", f"hf:{tmp_path / 'config'}", "--num-classes", "3", "--device", "cpu"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", ["depth=1000000", "embed_dim=1000000", "depth=-1", "depth='x'", "img_size=1e30"])
def test_a_student_file_that_names_a_huge_network_is_refused(
    arguments: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run")
    rewrite(run / STUDENT_CONFIG, model=f"{VIT}({arguments})", image_size=None)
    assert main(["evaluate", str(run), "--device", "cpu"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_what_is_too_large_says_how_large_it_is() -> None:
    with pytest.raises(TooLargeError, match=r"'timm:.*' is too large: at least .* layers .*2,000 are the most"):
        build(f"{VIT}({SMALL}, depth=3000)", 3)
    with pytest.raises(TooLargeError, match=r"at least [\d,]+ weights, and the memory here holds 134,217,728"):
        build(f"{VIT}(depth=1, embed_dim=6000, num_heads=2)", 3)
    with pytest.raises(TooLargeError):
        outline(lambda: nn.Linear(10**5, 10**5, device="meta"))


def test_what_fits_is_built_as_before_and_draws_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{VIT}({SMALL}, depth=2)"
    torch.manual_seed(0)
    plain = build(name, 3)
    monkeypatch.setattr(bounds, "_USUAL", 1)  # looked at without memory first
    torch.manual_seed(0)
    looked_at = build(name, 3)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), looked_at.parameters(), strict=True))
    assert all(parameter.device.type == "cpu" for parameter in looked_at.parameters())


def test_counting_ends_with_the_building_and_leaves_errors_alone() -> None:
    with pytest.raises(KeyError, match="a bug"), bounded("x"):
        raise KeyError("a bug")
    with pytest.raises(KeyError, match="a bug"):
        built_within_bounds("x", (10**6,), lambda: {}["a bug"])
    with pytest.raises(TooLargeError), bounded("x"):
        nn.Linear(10**5, 10**5, device="meta")
    nn.Linear(10**5, 10**5, device="meta")
