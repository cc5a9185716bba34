"""Files of weights that are easily taken for something else."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_transfer.models import WeightsError, build, load_weights, open_model

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
