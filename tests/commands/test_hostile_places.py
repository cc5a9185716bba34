"""A run folder of somebody else writes into itself alone, reads what it says aloud, and fetches nothing."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.commands.hostile import images, rewrite, run_folder, save_student

from attention_transfer.cli import main
from attention_transfer.commands.data_of_runs import downloads
from attention_transfer.errors import InputError
from attention_transfer.experiment import Data, read_experiment
from attention_transfer.models import open_model
from attention_transfer.runs import RunFolder
from attention_transfer.training.cache import TeacherCache
from attention_transfer.training.prepare import load_data

TRAIN = ["train", "digits", "--tiny", "--methods", "--threads", "1", "--run-folder"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says when it refuses in one line."""
    code = main(arguments)
    said = capsys.readouterr().err
    assert code == 2, said
    assert len(said.strip().splitlines()) == 1, said
    return said


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with a file that nobody may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "diary.txt").write_text("mine\n")
    (folder / ".tmp-1-draft").write_text("mine too\n")
    return folder


def untouched(outside: Path) -> bool:
    held = {path.name: path.read_text() for path in outside.iterdir()}
    return held == {"diary.txt": "mine\n", ".tmp-1-draft": "mine too\n"}


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_run_goes_on_through_no_link_to_a_file(
    name: str, link: Callable[[Path, Path], None], tmp_path: Path, outside: Path
) -> None:
    with RunFolder.create_or_resume(tmp_path / "run", {}) as run:
        run.append_metrics({"epoch": 1})
    (run.path / name).unlink()
    link(outside / "diary.txt", run.path / name)
    with pytest.raises(InputError, match="link"), RunFolder.create_or_resume(run.path, {}) as again:
        again.append_metrics({"epoch": 2})
    assert untouched(outside)


@pytest.mark.parametrize("name", ["checkpoints", "snapshots", "findings"])
def test_a_run_goes_on_through_no_link_to_a_folder(name: str, tmp_path: Path, outside: Path) -> None:
    RunFolder.create_or_resume(tmp_path / "run", {}).close()
    (tmp_path / "run" / name).symlink_to(outside)
    with pytest.raises(InputError, match=f"{name} is a link to another path"):
        RunFolder.create_or_resume(tmp_path / "run", {})
    with pytest.raises(InputError, match="findings is a link") if name == "findings" else pytest.raises(ValueError):
        RunFolder(tmp_path / "run").write_finding("x" if name == "findings" else "../x", {})
    assert untouched(outside)


def test_training_a_run_on_says_so_in_one_line(
    tmp_path: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(outside / "diary.txt")
    assert "is a link to another path" in refused([*TRAIN, str(run)], capsys)
    assert untouched(outside)


def test_findings_of_a_command_stay_in_the_run(
    tmp_path: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run")
    other = run_folder(tmp_path / "other")
    (run / "findings").symlink_to(outside)
    assert "findings is a link" in refused(["evaluate", str(run), str(other), "--device", "cpu"], capsys)
    assert untouched(outside)


def test_a_foreseeable_temporary_name_is_none_of_ours(tmp_path: Path, outside: Path) -> None:
    run = RunFolder.create_or_resume(tmp_path / "run", {})
    (run.path / f".tmp-{os.getpid()}-summary.json").symlink_to(outside / "diary.txt")
    (run.path / "summary.json").symlink_to(outside / "diary.txt")
    run.write_summary({"epochs": 1})
    assert run.summary == {"epochs": 1}
    assert untouched(outside)


def test_snapshots_that_are_links_are_taken_off_and_not_emptied(tmp_path: Path, outside: Path) -> None:
    with RunFolder.create_or_resume(tmp_path / "run", {}) as run:
        (run.path / "snapshots").mkdir()
        (run.path / "snapshots" / "epoch-3").symlink_to(outside)
        (run.path / "snapshots" / ".tmp-1-epoch-4").symlink_to(outside)
        (run.path / "snapshots" / "epoch-x").mkdir()
        run.truncate(2)
        assert run.snapshots == {}
        with run.new_snapshot(3) as folder:
            (folder / "file").write_text("ours")
    RunFolder.create_or_resume(tmp_path / "run", {}).close()
    assert not (run.path / "snapshots" / ".tmp-1-epoch-4").is_symlink()
    assert untouched(outside)


def test_a_sweep_goes_on_through_no_link(tmp_path: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "digits", "--tiny", "--methods", "--over", "seed=0", "--folder"]
    for name in ("seed=0", "logs"):
        folder = tmp_path / f"sweep-{name}"
        folder.mkdir()
        (folder / name).symlink_to(outside)
        assert "is a link to another path" in refused([*command, str(folder)], capsys)
    (tmp_path / "sweep" / "logs").mkdir(parents=True)
    (tmp_path / "sweep" / "logs" / "seed=0.log").symlink_to(outside / "diary.txt")
    assert "is a link to another path" in refused([*command, str(tmp_path / "sweep")], capsys)
    assert untouched(outside)


def test_a_teacher_cache_is_written_through_no_link(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "epoch-0").symlink_to(outside)
    with pytest.raises(InputError, match="epoch-0 is a link"):
        TeacherCache(tmp_path / "cache", 1).read(0, torch.arange(2), lambda: pytest.fail("the teacher ran"))
    assert untouched(outside)


# ---------------------------------------------------------------- parts of a run


@pytest.mark.parametrize(
    "name",
    ["../outside", "..", "/etc", "a/../../outside", "~/teacher", "C:\\teacher", "..\\outside", "$HOME", "", "a\nb"],
)
@pytest.mark.parametrize("part", ["teacher", "parts"])
def test_names_of_a_runs_own_parts_lead_nowhere_else(
    name: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = {"teacher": "teacher", "parts": "parts.safetensors", "methods": [{"name": "attention-copy"}]} | {part: name}
    run = run_folder(tmp_path / "run", used_with=used)
    for folder in ("outside", "run/teacher"):
        (tmp_path / folder).mkdir()
        save_student(tmp_path / folder)
    said = refused(["evaluate", str(run)], capsys)
    assert "leads out of it" in said or "must be a text" in said


def test_a_snapshot_may_name_the_teacher_of_its_run_and_no_other(tmp_path: Path) -> None:
    from attention_transfer.runs.shapes import own_part

    snapshot = tmp_path / "run" / "snapshots" / "epoch-1"
    assert own_part(snapshot, "../../teacher", "x") == tmp_path / "run" / "teacher"
    for name in ("../../../teacher", "../teacher", "../../../../etc", "../../"):
        with pytest.raises(InputError, match="leads out"):
            own_part(snapshot, name, "x")


# ---------------------------------------------------------------- reading and fetching


def test_data_that_a_run_names_is_said_and_can_be_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(tmp_path / "run")
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"note: {run} names the data that is read: npz:{tmp_path / 'images'} (--data gives others)"
    others = images(tmp_path / "others")
    assert main(["evaluate", str(run), "--device", "cpu", "--data", f"npz:{others}", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["data"] == f"npz:{others}"
    assert "names the data" not in captured.out + captured.err


@pytest.mark.parametrize(
    "data", [{"name": "npz://host/share"}, {"name": "folder:\\\\host\\share"}, {"name": "npz:s3://b"}]
)
def test_data_on_another_machine_is_not_opened(
    data: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", {"data": data})
    assert "on another machine" in refused(["evaluate", str(run)], capsys)


def test_a_run_downloads_no_data_unless_its_user_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def fetched(source: type[Any], root: str, *, train: bool) -> None:
        asked.append(root)
        raise InputError("it was asked for")

    monkeypatch.setattr("attention_transfer.data.sources.cifar._downloaded", fetched)
    here = tmp_path / "here"
    run = run_folder(tmp_path / "run", {"data": {"name": "cifar10", "root": str(here)}})
    for command in ("evaluate", "localise"):
        assert "--allow-download" in refused([command, str(run)], capsys)
    drawing = ["class-maps", str(run), "--figure", str(tmp_path / "figure.png")]
    assert "--allow-download" in refused(drawing, capsys)
    assert not asked
    assert not here.exists()
    for words in (["--allow-download"], ["--data", "cifar10"]):
        assert "it was asked for" in refused(["evaluate", str(run), *words], capsys)
    assert len(asked) == 2
    assert not downloads([str(run)], False).data
    assert downloads([str(run), "--data=cifar10"], False).data
    with pytest.raises(InputError, match="downloads nothing by itself"):
        load_data(Data("cifar100", here), 0, download=False)


@pytest.mark.parametrize("name", ["timm:hf-hub:a/b", "timm:hf_hub:a/b", "hf:a/b", "timm:local-dir:/there", "hf:."])
def test_a_student_is_fetched_from_nowhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("it was fetched"))
    run = run_folder(tmp_path / "run", model=name)
    with pytest.raises(InputError, match=r"--allow-download|as NAME@FILE"):
        open_model(str(run))


@pytest.mark.parametrize(
    "teacher", ["timm:resnet10t@pretrained", "torchvision:resnet18@pretrained", "hf:a/b", "timm:hf-hub:a/b"]
)
def test_a_teacher_that_a_run_names_is_not_fetched(
    teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", {"teacher": teacher, "methods": [{"name": "mhgd"}]})
    drawing = ["batch-graph", str(run), "--figure", str(tmp_path / "figure.png")]
    assert "would be downloaded" in refused(drawing, capsys)


def test_the_teacher_that_a_run_names_is_said_and_can_be_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "teacher").mkdir()
    save_student(tmp_path / "teacher")
    run = run_folder(tmp_path / "run", {"teacher": str(tmp_path / "teacher"), "methods": [{"name": "mhgd"}]})
    drawing = ["batch-graph", str(run), "--figure", str(tmp_path / "figure.png"), "--device", "cpu"]
    assert main(drawing) == 2
    assert (
        f"names the teacher that is read: {tmp_path / 'teacher'} (--teacher gives another)" in capsys.readouterr().out
    )
    assert main([*drawing, "--teacher", "resnet8@gone.pt"]) == 2
    captured = capsys.readouterr()
    assert "names the teacher" not in captured.out
    assert "gone.pt" in captured.err


def test_a_description_of_timm_shapes_a_network_and_loads_nothing(tmp_path: Path) -> None:
    described = {"architecture": "resnet10t", "pretrained_cfg": {"input_size": [3, 64, 64], "num_classes": 3}}
    (tmp_path / "config.json").write_text(json.dumps(described | {"model_args": {"stem_width": 16}}))
    opened = open_model(f"timm:local-dir:{tmp_path}", 3)
    assert opened.name == "timm:resnet10t(stem_width=16)"
    for asked in ({"checkpoint_path": "/etc/passwd"}, {"features_only": True}, {"pretrained_cfg": {"file": "x"}}):
        rewrite(tmp_path / "config.json", model_args=asked)
        with pytest.raises(InputError, match="cannot be an argument"):
            open_model(f"timm:local-dir:{tmp_path}", 3)
    rewrite(tmp_path / "config.json", model_args=None, architecture="hf-hub:somebody/else")
    with pytest.raises(InputError, match="does not list"):
        open_model(f"timm:local-dir:{tmp_path}", 3)


def test_a_run_may_start_only_so_many_processes(tmp_path: Path) -> None:
    from attention_transfer.commands.data_of_runs import own_data

    run = run_folder(tmp_path / "run", {"data": {"num_workers": 100_000}})
    assert read_experiment(RunFolder(run)).data.num_workers == 100_000
    assert own_data([str(run)]).num_workers == 64


def test_an_archive_that_unpacks_to_very_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attention_transfer.data.pipeline.array_files._UNPACKED_BYTES", 2**20)
    folder = images(tmp_path / "bomb")
    load_data(Data(f"npz:{folder}"), 0)
    pixels = np.zeros((1000, 32, 32, 3), np.uint8)
    np.savez_compressed(folder / "test.npz", images=pixels, labels=np.zeros(1000, np.int64))
    with pytest.raises(InputError, match=r"test.npz unpacks to 3,0\d\d,\d\d\d bytes"):
        load_data(Data(f"npz:{folder}"), 0)


def test_pickled_objects_in_an_archive_are_not_unpickled(tmp_path: Path) -> None:
    folder, marker = images(tmp_path / "set"), tmp_path / "it-ran"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    np.savez(folder / "test.npz", images=np.array([Hostile()], dtype=object), labels=np.zeros(1, np.int64))
    with pytest.raises(InputError, match="holds pickled objects, which could run code, and is not read"):
        load_data(Data(f"npz:{folder}"), 0)
    assert not marker.exists()
