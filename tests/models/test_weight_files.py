"""Files that are no weights, or not in a format that is read: each is refused by its name, in one sentence."""

import argparse
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from attention_transfer.models import WeightsError, check_spec, open_model, read_weights

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
