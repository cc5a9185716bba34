"""Folders of transformers and timm that are damaged, or hold more than a network: said in a sentence, and not run."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from attention_transfer.models import open_model

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
        (lambda f: (f / WEIGHTS).write_bytes(b"xx"), "the weights of timm:.* are damaged: "),
        (cut_off, "the weights of timm:.* are damaged: "),
        (with_code, "hold more than tensors, .* could run code"),
        (with_code_in_an_archive, "hold more than tensors, .* could run code"),
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
