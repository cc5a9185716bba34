"""Folders of transformers and timm that are damaged, or hold more than a network: said in a sentence, and not run."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from attention_transfer.models import open_model
from attention_transfer.models.timm_source import unpickled_safely

WEIGHTS = "model.safetensors"
Damage = Callable[[Path], object]


class Code:
    """Would write a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture
def transformers_folder(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    state = timm.create_model("resnet10t", num_classes=3).state_dict()
    safetensors.torch.save_file(state, folder / WEIGHTS)
    described = {"num_classes": 3, "mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 64, 64], "classifier": "fc"}
    config = {"architecture": "resnet10t", "num_classes": 3, "pretrained_cfg": {**described, "first_conv": "conv1.0"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def edit(folder: Path, inside: str = "", **fields: Any) -> None:
    """Change what its configuration says."""
    config = json.loads((folder / "config.json").read_text())
    (config[inside] if inside else config).update(fields)
    (folder / "config.json").write_text(json.dumps(config))


def with_code(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Code(folder / "it ran")}, protocol=2))


def with_code_in_an_archive(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"a": Code(folder / "it ran")}, folder / "pytorch_model.bin")


def cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])


def in_missing_parts(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "../../b"}}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / WEIGHTS).write_bytes(b"xx"), "is no image classifier that transformers opens: SafetensorError"),
        (cut_off, "is no image classifier that transformers opens: SafetensorError"),
        (with_code, "hold more than tensors, .* could run code"),
        (with_code_in_an_archive, "hold more than tensors, .* could run code"),
        (in_missing_parts, "is no image classifier that transformers opens"),
        (lambda f: edit(f, hidden_act="\x1b[31m"), r"is no image classifier that transformers opens: .*\\x1b\[31m"),
        (lambda f: edit(f, patch_size=0), "is no image classifier that transformers opens: ZeroDivisionError"),
        (lambda f: edit(f, hidden_size=-4), "is no image classifier that transformers opens|no configuration"),
        (
            lambda f: edit(f, id2label={str(i): f"class {i}" for i in range(5)}),
            "its config.json is of 5 classes, and the last layer of its weights of another number",
        ),
    ],
)
def test_a_folder_of_transformers_is_refused_in_one_sentence(
    damage: Damage, words: str, transformers_folder: Path
) -> None:
    damage(transformers_folder)
    with pytest.raises(ValueError, match=words) as refused:
        open_model(f"hf:{transformers_folder}@pretrained")
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value)
    assert not (transformers_folder / "it ran").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / WEIGHTS).write_bytes(b"xx"), "model.safetensors is no readable safetensors file"),
        (cut_off, "model.safetensors is no readable safetensors file"),
        (with_code, "pytorch_model.bin is refused: .* could run code"),
        (with_code_in_an_archive, "pytorch_model.bin is refused: .* could run code"),
        (lambda f: (f / WEIGHTS).unlink(), "holds no weights beside its config.json: wanted is model.safetensors"),
        (lambda f: edit(f, architecture="\x1b[31m"), r"a network that this timm does not list: '\\x1b\[31m'"),
        (lambda f: edit(f, num_classes=7), "cannot be built with its arguments"),
    ],
)
def test_a_folder_of_timm_is_refused_in_one_sentence(damage: Damage, words: str, timm_folder: Path) -> None:
    damage(timm_folder)
    with pytest.raises(ValueError, match=words) as refused:
        open_model(f"timm:local-dir:{timm_folder}@pretrained")
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value)
    assert not (timm_folder / "it ran").exists()


@pytest.mark.parametrize("values", [{"mean": "x"}, {"std": [0, 0, 0]}, {"mean": [0.1, 0.2]}, {"std": [None] * 3}])
def test_a_normalisation_that_cannot_be_is_unknown(values: dict[str, Any], timm_folder: Path) -> None:
    edit(timm_folder, "pretrained_cfg", **values)
    assert open_model(f"timm:local-dir:{timm_folder}@pretrained").input is None


@pytest.mark.parametrize("file", ["pytorch_model.bin", "other.pth"])
def test_a_folder_of_timm_is_read_in_every_form(file: str, timm_folder: Path) -> None:
    state = safetensors.torch.load_file(timm_folder / WEIGHTS)
    read = open_model(f"timm:local-dir:{timm_folder}@pretrained").module
    (timm_folder / WEIGHTS).unlink()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, timm_folder / file)
    again = open_model(f"timm:local-dir:{timm_folder}@pretrained").module
    for name, value in state.items():
        assert torch.equal(read.state_dict()[name], value), name
        assert torch.equal(again.state_dict()[name], value), name
    assert "state_dict" not in again.pretrained_cfg


def test_what_a_library_unpickles_is_tensors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some versions of timm ask for whole pickles."""
    torch.save({"a": Code(tmp_path / "it ran")}, tmp_path / "model.bin")
    for before in (None, "0"):
        if before is None:
            monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
        else:
            monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", before)
        with unpickled_safely(), pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "model.bin", weights_only=False)
        assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before
    assert not (tmp_path / "it ran").exists()
