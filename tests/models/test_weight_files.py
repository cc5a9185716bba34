"""Files and folders that are damaged, or no weights, or in no known format: each is refused in a sentence."""

import argparse
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from attention_transfer.models import WeightsError, build, check_spec, open_model, read_weights
from attention_transfer.models.timm_source import unpickled_safely
from attention_transfer.models.untrained import settle_norms

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


# ---------------- files that are no weights, or not in a format that is read

MODULE = nn.Sequential(nn.Linear(2, 2))


def archive(*names: str) -> Callable[[Path], None]:
    """A function that writes an archive of empty files, as the libraries name them."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as opened:
            for name in names:
                opened.writestr(name, b"")

    return write


script = archive("net/data.pkl", "net/code/__torch__/net.py", "net/constants.pkl")
exported = archive("net/data/weights/weight_0", "net/models/model.json", "net/archive_format")


def index(path: Path) -> None:
    path.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "x.safetensors"}}))


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("a.npz", lambda path: np.savez(path, a=np.ones(2)), "NumPy arrays"),
        ("a.npy", lambda path: np.save(path, np.ones(2)), "single NumPy array"),
        ("a.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
        ("keras.ckpt", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
        ("a.onnx", lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch"), "ONNX"),
        ("a.gguf", lambda path: path.write_bytes(b"GGUF" + bytes(9)), "GGUF"),
        ("model.ckpt.index", lambda path: path.write_bytes(bytes(9)), "TensorFlow"),
        ("a.msgpack", lambda path: path.write_bytes(bytes(9)), "Flax"),
        ("a.pt", script, "TorchScript"),
        ("a.pt2", exported, r"torch\.export"),
        ("a.keras", archive("config.json", "model.weights.h5"), "Keras"),
        ("a.zip", archive("photo.jpg"), "archive of other files"),
        ("model.safetensors.index.json", index, r"index of weights in 2 files .*hf:"),
        ("__0_0.distcp", lambda path: path.write_bytes(bytes(9)), "dcp_to_torch"),
        ("a.pth", lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        ("a.pth", lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>"), "web page"),
        ("a.safetensors", lambda path: path.write_bytes(b"<html>"), "web page"),
        ("a.pth.gz", lambda path: path.write_bytes(b"\x1f\x8b" + bytes(9)), "compressed"),
        ("passwd", lambda path: path.write_text("root:x:0:0:root:/root:/bin/bash\n" * 9), "no file of weights"),
        ("zeros", lambda path: path.write_bytes(bytes(999)), "no file of weights"),
        ("empty", lambda path: path.write_bytes(b""), "no file of weights"),
    ],
)
def test_other_files_are_refused_by_their_kind(
    name: str, write: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(WeightsError, match=words) as caught:
        open_model(f"resnet8@{tmp_path / name}")
    message = str(caught.value)
    assert name in message
    assert "weights_only" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (".metadata", "distributed checkpoint.*dcp_to_torch"),
        ("student.safetensors", "it is a folder, of a run"),
        ("config.json", "hf:.*@pretrained"),
        ("saved_model.pb", "TensorFlow"),
        ("data.pkl", "unpacked"),
        ("anything", "it is a folder; name the file"),
    ],
)
def test_folders_are_refused_by_what_they_hold(inside: str, words: str, tmp_path: Path) -> None:
    (tmp_path / inside).write_bytes(b"")
    with pytest.raises(WeightsError, match=words):
        open_model(f"resnet8@{tmp_path}")


def test_a_checkpoint_of_tensorflow_in_several_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt.index").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"model\.ckpt is a checkpoint of TensorFlow"):
        open_model(f"resnet8@{tmp_path / 'model.ckpt'}")


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "noending"])
def test_safetensors_are_known_by_their_content(name: str, tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.ones(2)}, tmp_path / name)
    assert torch.equal(read_weights(tmp_path / name)["weight"], torch.ones(2))


def test_a_pickle_called_safetensors_is_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    assert list(read_weights(tmp_path / "a.safetensors")) == ["weight"]


def test_settings_of_a_trainer_beside_the_weights_are_no_obstacle(tmp_path: Path) -> None:
    content = {"args": argparse.Namespace(lr=0.1, opt="sgd"), "state_dict": {"weight": torch.ones(2)}, "epoch": 3}
    torch.save(content, tmp_path / "a.pth.tar")
    assert list(read_weights(tmp_path / "a.pth.tar")) == ["weight"]
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


class Unloadable:
    """A class of somebody's own."""


@pytest.mark.parametrize("content", [MODULE, {"model": MODULE}, {"weight": torch.ones(2), "extra": Unloadable()}])
def test_objects_are_refused_without_advice_to_load_them_unsafely(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"is refused: it holds an object of .*save the state dict") as caught:
        read_weights(tmp_path / "a.pt")
    assert "weights_only" not in str(caught.value)


def test_a_mapping_that_holds_itself_is_read_to_an_end(tmp_path: Path) -> None:
    content: dict[str, object] = {"weight": torch.ones(2)}
    content["self"] = content
    torch.save(content, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").keys() == {"weight"}


def test_a_key_behind_a_missing_file_does_not_hide_that_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file of weights .*gone\.pt"):
        check_spec(f"resnet8@{tmp_path / 'gone.pt'}#model")
    with pytest.raises(WeightsError, match=r"no weights file at .*gone\.pt"):
        open_model(f"resnet8@{tmp_path / 'gone.pt'}#model")


# ---------------- untrained networks give values of a usual size, and are otherwise left as they were


def largest(model: nn.Module) -> float:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(images).abs().max().item()


def test_a_deep_network_gives_logits_of_a_usual_size():
    torch.manual_seed(0)
    model = build("resnet56", 10)
    assert largest(model) > 1000
    settle_norms(model, (32, 32))
    assert 0.01 < largest(model) < 100


@pytest.mark.parametrize("name", ["timm:resnet18", "vgg8", "timm:vit_tiny_patch16_224"])
def test_every_network_is_otherwise_left_as_it_was(name: str):
    model = build(name, 10, image_size=32)
    next(model.children()).eval()
    before = {key: value.clone() for key, value in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    settle_norms(model, (32, 32))
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 for norm in norms)
    assert not any(torch.equal(norm.running_var, torch.ones_like(norm.running_var)) for norm in norms)  # pyright: ignore[reportArgumentType]


class Fails(nn.Module):
    """A network that stops with an error of some kind, of many lines."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.error = error

    def forward(self, image: Tensor) -> Tensor:
        self.norm(image)
        raise self.error


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError, IndexError, TypeError, ZeroDivisionError])
def test_a_network_that_cannot_run_is_refused_in_one_sentence_and_left_as_it_was(kind: type[Exception]):
    model = Fails(kind("mat1 and mat2\nand 40 more lines"))
    with pytest.raises(ValueError, match=r"on images of 3 channels and 8×9 pixels: mat1 and mat2$"):
        settle_norms(model, (8, 9))
    assert model.training
    assert model.norm.momentum == 0.1
