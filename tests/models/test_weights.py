"""Weights files: what is found in them, and every way they are refused."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from attention_transfer.models import WeightsError, build, load_weights, read_weights


@pytest.fixture
def trained() -> nn.Module:
    torch.manual_seed(1)
    return build("resnet8", 3)


@pytest.fixture
def fresh() -> nn.Module:
    torch.manual_seed(2)
    return build("resnet8", 3)


def same(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model",), ("net",), ("student",), ("state_dict", "model")])
def test_state_dicts_are_found_where_people_put_them(
    nest: tuple[str, ...], trained: nn.Module, fresh: nn.Module, tmp_path: Path
) -> None:
    content: dict[str, Any] = dict(trained.state_dict())
    for key in nest:
        content = {"epoch": 3, key: content, "args": {"lr": 0.1}}
    torch.save(content, tmp_path / "file.pt")
    assert not same(trained, fresh)
    load_weights(fresh, tmp_path / "file.pt")
    assert same(trained, fresh)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(prefix: str, trained: nn.Module, fresh: nn.Module, tmp_path: Path) -> None:
    torch.save({prefix + key: value for key, value in trained.state_dict().items()}, tmp_path / "file.pth")
    load_weights(fresh, tmp_path / "file.pth")
    assert same(trained, fresh)


def test_a_part_called_module_is_not_taken_for_a_wrapper(tmp_path: Path) -> None:
    weights = {"module.weight": torch.zeros(1), "head.weight": torch.zeros(1)}
    torch.save(weights, tmp_path / "file.pt")
    assert list(read_weights(tmp_path / "file.pt")) == list(weights)


def test_the_name_of_a_compiled_part_is_cleaned(tmp_path: Path) -> None:
    torch.save({"body._orig_mod.weight": torch.zeros(1), "head": torch.zeros(1)}, tmp_path / "file.pt")
    assert list(read_weights(tmp_path / "file.pt")) == ["body.weight", "head"]


def test_safetensors_are_read(trained: nn.Module, fresh: nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "file.safetensors")
    load_weights(fresh, tmp_path / "file.safetensors")
    assert same(trained, fresh)


def test_weights_from_before_batches_were_counted_are_accepted(
    trained: nn.Module, fresh: nn.Module, tmp_path: Path
) -> None:
    old = OrderedDict((k, v) for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked"))
    torch.save(old, tmp_path / "file.pt")
    load_weights(fresh, tmp_path / "file.pt")
    assert same(trained, fresh)


def test_what_is_no_tensor_is_left_out(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "epoch": 3, "name": "x"}, tmp_path / "file.pt")
    assert list(read_weights(tmp_path / "file.pt")) == ["weight"]


def test_every_kind_of_misfit_is_listed_and_nothing_is_loaded(
    trained: nn.Module, fresh: nn.Module, tmp_path: Path
) -> None:
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    weights: dict[str, Tensor] = dict(trained.state_dict())
    del weights["conv1.weight"]
    weights["fc.weight"] = torch.zeros(4, 64)
    weights |= {f"extra.{i}": torch.zeros(1) for i in range(12)}
    torch.save(weights, tmp_path / "file.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(fresh, tmp_path / "file.pt")
    message = str(caught.value)
    assert "1 missing: conv1.weight" in message
    assert "12 unexpected: extra.0, extra.1" in message
    assert "extra.9 and 2 more" in message
    assert "extra.10" not in message
    assert "1 differing in shape: fc.weight (wanted (3, 64), came (4, 64))" in message
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())


def test_a_file_that_holds_a_class_is_refused_by_the_name_of_the_class(trained: nn.Module, tmp_path: Path) -> None:
    torch.save(trained, tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=r"refused.*attention_transfer\.models\.resnet\.ResNet.*could run code"):
        read_weights(tmp_path / "file.pt")


class Evil:
    """Runs a function when unpickled without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("harm",)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(WeightsError, match=r"refused.*posix\.mkdir"):
        read_weights(tmp_path / "zip.pt")
    with pytest.raises(WeightsError):
        read_weights(tmp_path / "plain.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["file.pt", "file.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all, only words", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_weights(tmp_path / name)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file at .*nothing\.pt"):
        read_weights(tmp_path / "nothing.pt")
    with pytest.raises(WeightsError, match="it is a folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {"epoch": 3}, {}])
def test_a_file_without_named_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=r"file\.pt holds (a|no) "):
        read_weights(tmp_path / "file.pt")


SHARED = Path(os.environ.get("ATTENTION_TRANSFER_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet44", "resnet56"])
def test_published_cifar_weights_load(name: str) -> None:
    file = SHARED / "data" / "weights" / f"cifar100_{name}_chenyaofo.pt"
    if not file.is_file():
        pytest.skip(f"no {file.name}: ATTENTION_TRANSFER_SHARED names the folder that has data/weights")
    model = build(name, 100)
    load_weights(model, file)
    loaded, weights = model.state_dict(), read_weights(file)
    assert set(weights) == set(loaded)
    assert all(torch.equal(value, loaded[key]) for key, value in weights.items())


def test_a_plain_pickle_is_refused_by_what_it_would_make(tmp_path: Path) -> None:
    file = tmp_path / "plain.pt"
    file.write_bytes(pickle.dumps({"model": Path("somewhere")}, protocol=4))
    with pytest.raises(WeightsError, match=r"is refused: .*it holds pathlib\.\w*Path.* unpickling it could run"):
        read_weights(file)
