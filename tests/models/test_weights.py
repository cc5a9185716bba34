"""Weights files: what is found in them, and every way they are refused."""

import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
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
    with pytest.raises(WeightsError, match=r"refused.*attention_transfer\.models\.zoo\.resnet\.ResNet.*could run code"):
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


def changed(trained: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    state = dict(trained.state_dict())
    return state | {name: change(state[name])}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("fc.weight", lambda value: (100 * value).int(), "fc.weight holds int32 where float32 is wanted"),
        ("fc.bias", lambda value: (100 * value).to(torch.int8), "fc.bias holds int8"),
        ("fc.bias", lambda value: value.to(torch.uint8), "fc.bias holds uint8"),
        ("bn1.weight", lambda value: value > 0, "bn1.weight holds bool"),
        ("bn1.running_var", lambda value: value.long(), "bn1.running_var holds int64"),
        ("fc.weight", lambda value: value.to(torch.complex64), "fc.weight holds complex64"),
        ("fc.weight", lambda value: value.to(torch.float8_e4m3fn), "fc.weight is quantised"),
        ("fc.weight", lambda value: value.to_sparse(), "fc.weight is sparse"),
        ("fc.weight", lambda value: value.to("meta"), "fc.weight was saved without values"),
        ("fc.weight", lambda value: value / 0, "fc.weight holds .* infinite"),
        ("conv1.weight", lambda value: value * torch.nan, "conv1.weight holds 432 of 432 values that are NaN"),
        ("bn1.running_var", lambda value: value.double() * 1e300, r"bn1.running_var .*up to 1e\+300, beyond .*float32"),
    ],
)
def test_what_cannot_be_weights_is_refused_by_its_name(
    name: str, change: Callable[[Tensor], Tensor], words: str, trained: nn.Module, fresh: nn.Module, tmp_path: Path
) -> None:
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(changed(trained, name, change), tmp_path / "file.pt")
        with pytest.raises(WeightsError, match=words):
            load_weights(fresh, tmp_path / "file.pt")
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_refused(trained: nn.Module, fresh: nn.Module, tmp_path: Path) -> None:
    quantised = changed(trained, "fc.weight", lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8))
    torch.save(quantised, tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=r"fc\.weight is quantised \(qint8\)"):
        load_weights(fresh, tmp_path / "file.pt")


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ("fc._packed_params.dtype", "quantised"),
        ("fc.weight_orig", r"pruned.*prune\.remove"),
        ("conv1.weight_g", "parametris"),
        ("conv1.parametrizations.weight.original0", "parametris"),
        ("fc.lora_A.weight", "adapters"),
    ],
)
def test_names_that_other_tools_make_are_explained(
    added: str, words: str, trained: nn.Module, fresh: nn.Module, tmp_path: Path
) -> None:
    torch.save(dict(trained.state_dict()) | {added: torch.zeros(1)}, tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=f"(?s)unexpected: {re.escape(added)}.*{words}"):
        load_weights(fresh, tmp_path / "file.pt")


def test_empty_tensors_of_a_process_are_explained(trained: nn.Module, fresh: nn.Module, tmp_path: Path) -> None:
    torch.save({name: value.new_empty(0) for name, value in trained.state_dict().items()}, tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=r"(?s)0 of its \d+ tensors are there.*came \(0,\).*gather the weights"):
        load_weights(fresh, tmp_path / "file.pt")


def test_weights_for_grey_images_are_explained(trained: nn.Module, fresh: nn.Module, tmp_path: Path) -> None:
    torch.save(changed(trained, "conv1.weight", lambda value: value[:, :1]), tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=r"for images of 1 channel, the network is for images of 3"):
        load_weights(fresh, tmp_path / "file.pt")


def test_a_file_of_another_network_is_refused_in_few_words(fresh: nn.Module, tmp_path: Path) -> None:
    weights = {"conv1.weight": torch.zeros(16, 3, 3, 3)} | {f"blocks.{i}.weight": torch.zeros(1) for i in range(40)}
    torch.save(weights, tmp_path / "file.pt")
    with pytest.raises(
        WeightsError, match=r"(?s)1 of its \d+ tensors are there.*blocks\.2\.weight and 37 more"
    ) as caught:
        load_weights(fresh, tmp_path / "file.pt")
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 300


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_the_networks_own(
    kind: torch.dtype, trained: nn.Module, fresh: nn.Module, tmp_path: Path
) -> None:
    stored = trained.to(kind).state_dict()
    torch.save(stored, tmp_path / "file.pt")
    assert load_weights(fresh, tmp_path / "file.pt") == ()
    assert all(torch.equal(value, stored[name].to(value.dtype)) for name, value in fresh.state_dict().items())
    assert fresh.get_parameter("fc.weight").dtype == torch.float32


def test_values_that_vanish_are_said(trained: nn.Module, fresh: nn.Module, tmp_path: Path) -> None:
    tiny = changed(trained, "fc.weight", lambda value: torch.full_like(value, 1e-60, dtype=torch.float64))
    torch.save(tiny, tmp_path / "file.pt")
    (note,) = load_weights(fresh, tmp_path / "file.pt")
    assert "too small for float32" in note
    assert "fc.weight" in note


@pytest.mark.parametrize("change", [torch.Tensor.float, torch.Tensor.int])
def test_a_count_of_batches_may_be_of_any_type(
    change: Callable[[Tensor], Tensor], trained: nn.Module, fresh: nn.Module, tmp_path: Path
) -> None:
    torch.save(changed(trained, "bn1.num_batches_tracked", change), tmp_path / "file.pt")
    load_weights(fresh, tmp_path / "file.pt")
    assert same(trained, fresh)


class Masked(nn.Module):
    """A network with a mask and an index beside its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("index", torch.tensor([0, 1]))


def test_masks_may_be_infinite_and_indices_must_be_whole(tmp_path: Path) -> None:
    torch.save(Masked().state_dict(), tmp_path / "file.pt")
    assert load_weights(Masked(), tmp_path / "file.pt") == ()
    torch.save(dict(Masked().state_dict()) | {"index": torch.tensor([0.0, 0.5])}, tmp_path / "file.pt")
    with pytest.raises(WeightsError, match="index holds values of float32 that int64 has not"):
        load_weights(Masked(), tmp_path / "file.pt")
