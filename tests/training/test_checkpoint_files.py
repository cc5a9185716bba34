"""Files of checkpoints: what is damaged is refused by its name, the one before is used, and older ones are read."""

import errno
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.training.interrupted import NAMES, command, interrupted, seal

from attention_transfer.cli import main
from attention_transfer.errors import InputError
from attention_transfer.runs import RunFolder
from attention_transfer.training.checkpoint_checks import CheckpointError
from attention_transfer.training.checkpoint_files import (
    CONTENT,
    TENSORS,
    DamagedError,
    checkpoints,
    read_checkpoint,
    read_latest,
    write_checkpoint,
)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted inside its second epoch, after two steps of it."""
    return interrupted(tmp_path_factory.mktemp("broken"))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _huge_header(path: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def _deep(path: Path) -> None:
    path.write_text("[" * 10**5)


def _linked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero" if Path("/dev/zero").exists() else ".")


def _pipe(path: Path) -> None:
    path.unlink()
    (os.mkfifo if hasattr(os, "mkfifo") else Path.mkdir)(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS = {
    **{f"tensors {each.__name__[1:]}": (TENSORS, each) for each in (_truncate, _flip, _huge_header, _linked, _folder)},
    **{f"content {each.__name__[1:]}": (CONTENT, each) for each in (_truncate, _flip, _deep, _linked, _pipe)},
    "tensors gone": (TENSORS, Path.unlink),
    "content gone": (CONTENT, Path.unlink),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_refused_by_name(harm: str, tmp_path: Path) -> None:
    name, damage = HARMS[harm]
    damaged = write_checkpoint(tmp_path, NAMES | {"weight": torch.arange(9.0)})
    damage(damaged / name)
    with pytest.raises(DamagedError, match="epoch-1-step-2 cannot be read: it is damaged"):
        read_latest(tmp_path)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"format": 2}, "has the format 2, and this version reads 1"),
        ({"format": "1"}, "must be a whole number"),
        ({"tensors": []}, "an object with names and values"),
        ({"tensors": {"bytes": -1, "sha256": "0"}}, "whole number, at least 0"),
        ({"state": {"$tensor": "gone"}}, "its tensor 'gone' is missing"),
        ({"state": {"$code": "print()"}}, "holds an object"),
        ({"state": {"$items": [[1]]}}, "a pair that is none"),
    ],
    ids=repr,
)
def test_content_of_another_kind_is_refused_though_it_has_its_checksum(
    body: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path, NAMES | {"weight": torch.arange(9.0)})
    before = json.loads((path / CONTENT).read_text())
    del before["checksum"]
    seal(path, before | body)
    with pytest.raises(CheckpointError, match=words):
        read_latest(tmp_path)


def test_the_one_before_is_used_where_the_last_is_damaged(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the run ends as one that was never harmed; lost metrics come back."""
    words = command(broken)[:-1]
    for name in ("harmed", "whole"):
        shutil.copytree(broken / "run", tmp_path / name)
    last, before = checkpoints(tmp_path / "harmed" / "checkpoints")
    assert (last.name, before.name) == ("epoch-1-step-2", "epoch-1-step-0")
    _flip(last / TENSORS)
    (tmp_path / "harmed" / "metrics.jsonl").unlink()
    assert main([*words, str(tmp_path / "harmed")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "tensors.safetensors does not have its checksum" in said
    assert "The one before it is used: epoch-1-step-0" in said
    assert main([*words, str(tmp_path / "whole")]) == 0
    whole, harmed = (tmp_path / name / "student.safetensors" for name in ("whole", "harmed"))
    assert whole.read_bytes() == harmed.read_bytes()
    assert [row["epoch"] for row in RunFolder(tmp_path / "harmed").read_metrics()] == [1, 2]


def test_a_disk_that_is_full_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, NAMES | {"weight": torch.arange(9.0)})

    def full(tensors: Any, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(InputError, match=r"epoch-2-step-0 cannot be written: No space left.* Make room"):
        write_checkpoint(tmp_path, {"epoch": 2, "first_batch": 0, "weight": torch.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-1-step-2"]
    found = read_latest(tmp_path)
    assert found is not None
    assert torch.equal(found.state["weight"], torch.arange(9.0))


def test_everything_that_optimisers_keep_comes_back(tmp_path: Path) -> None:
    tied = torch.randn(3)
    state = NAMES | {
        "tied": {"a": tied, "b": tied},
        "image": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "half": torch.randn(3).bfloat16(),
        "state": {0: {"step": torch.tensor(3.0)}, 10: {}},
        "betas": (0.9, 0.999),
        "infinite": [float("inf"), float("-inf")],
        "nothing": None,
        "flag": True,
        "$odd": "name",
    }
    found = read_checkpoint(write_checkpoint(tmp_path, state))
    assert repr(found) == repr(state)
    assert found["image"].is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(InputError, match=r"deep\.0 is of type set, which a checkpoint cannot keep"):
        write_checkpoint(tmp_path, NAMES | {"deep": [{1}]})


# ---------------------------------------------------------------- of older versions


def pickled(run: Path) -> Path:
    """Writes the last checkpoint of a run as older versions did, in the place of all that there are."""
    last, *_ = checkpoints(run / "checkpoints")
    state = read_checkpoint(last)
    names = ("epoch", "first_batch", "seconds", "total_seconds", "distiller", "optimizer", "average")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    file = run / "checkpoints" / "last.pt"
    torch.save({name: state[name] for name in names} | {"means": state["means"][0]}, file)
    return file


def test_a_checkpoint_of_an_older_version_is_gone_on_from(broken: Path, tmp_path: Path) -> None:
    for name in ("old", "new"):
        shutil.copytree(broken / "run", tmp_path / name)
    pickled(tmp_path / "old")
    for name in ("old", "new"):
        assert main([*command(broken)[:-1], str(tmp_path / name)]) == 0
    old, new = (RunFolder(tmp_path / name) for name in ("old", "new"))
    assert (old.path / "student.safetensors").read_bytes() == (new.path / "student.safetensors").read_bytes()
    assert [row["step"] for row in old.read_metrics()] == [row["step"] for row in new.read_metrics()] == [4, 8]


def _bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26))


def _hostile(file: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (file.with_name("it-ran"),)

    file.write_bytes(pickle.dumps(Hostile()))


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"PK\x03\x04" + bytes(100)),
        lambda file: file.write_bytes(os.urandom(4096)),
        lambda file: file.mkdir(),
        lambda file: file.symlink_to("/dev/zero" if Path("/dev/zero").exists() else "."),
        lambda file: torch.save([1], file),
        _bomb,
        _hostile,
    ],
    ids=["empty", "zip", "noise", "folder", "device", "list", "bomb", "code"],
)
def test_files_that_are_no_checkpoints_of_older_versions_are_refused(
    write: Callable[[Path], Any], tmp_path: Path
) -> None:
    file = tmp_path / "last.pt"
    write(file)
    with pytest.raises(CheckpointError, match=str(file)) as refused:
        read_latest(tmp_path)
    assert "weights_only" not in str(refused.value)
    assert not file.with_name("it-ran").exists()
