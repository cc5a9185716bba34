"""Files of a run that hold something else than they should: one line, exit code 2, never a traceback."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.commands.hostile import rewrite, run_folder

from attention_transfer.cli import main
from attention_transfer.errors import InputError
from attention_transfer.experiment import from_json
from attention_transfer.files.untrusted import LARGEST_JSON, read_object
from attention_transfer.models import open_model
from attention_transfer.models.saving import read_student_file
from attention_transfer.runs import STUDENT_CONFIG, STUDENT_WEIGHTS, RunFolder

ROW = {"epoch": 1, "test": {"top1": 1.0, "loss": 2.0}, "terms": {"ce": {"raw": 1.0, "weight": 1.0, "weighted": 1.0}}}
DEEP = "[" * 100_000 + "]" * 100_000


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    code = main(arguments)
    said = capsys.readouterr().err
    assert code == 2, said
    assert len(said.strip().splitlines()) == 1, said
    return said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_classes", [4]),
        ("num_classes", "4"),
        ("num_classes", 4.0),
        ("num_classes", True),
        ("num_classes", -1),
        ("num_classes", 10**12),
        ("num_classes", None),
        ("image_size", "32"),
        ("image_size", 0),
        ("image_size", 10**30),
        ("model", 8),
        ("model", None),
        ("model", "resnet8\x1b[2J"),
        ("model", "\ud800"),
        pytest.param("model", "x" * 50_000, id="model of many letters"),
        ("model", "@"),
        ("mean", [0.5, 0.5]),
        ("mean", ["a", "b", "c"]),
        ("mean", 0.5),
        ("std", [0.0, 0.5, 0.5]),
        ("std", [[0.5], [0.5], [0.5]]),
        ("input_size", [32]),
        ("input_size", [10**30, 32]),
        ("classes", "abcd"),
        ("classes", [1, 2, 3, 4]),
        ("transformers_config", ["vit"]),
        ("used_with", "teacher"),
        ("used_with", {}),
        ("used_with", {"teacher": "teacher", "parts": "p", "methods": {"name": "at"}}),
        ("used_with", {"teacher": "teacher", "parts": "p", "methods": [{"name": 5}]}),
        ("used_with", {"teacher": ["teacher"], "parts": "p", "methods": []}),
    ],
)
def test_a_student_file_with_a_field_of_another_type_is_refused(
    field: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run")
    rewrite(run / STUDENT_CONFIG, mean=[0.5] * 3, std=[0.5] * 3)
    rewrite(run / STUDENT_CONFIG, **{field: value})
    refused(["evaluate", str(run), "--device", "cpu"], capsys)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data", "npz:/x"),
        ("data", None),
        ("data.name", ["npz"]),
        ("data.image_size", "32"),
        ("data.image_size", 10**30),
        ("data.train_limit", 1.5),
        ("data.num_workers", True),
        ("data.root", 7),
        ("data.root", "a\nb"),
        ("data.augment", "everything"),
        ("data.nothing_of_ours", 1),
        ("methods", {"name": "at"}),
        ("methods", [["at"]]),
        ("methods", [{"weight": 1}]),
        ("methods", [{"name": "gone"}]),
        ("methods", [{"name": "at", "weight": "1000"}]),
        ("methods", [{"name": "at", "schedule": []}]),
        ("training", []),
        ("training.epochs", "3"),
        ("training.snapshot_epochs", 5),
        ("teacher", 5),
        ("teacher_mean", [0.5, 0.5]),
        ("seed", "0"),
        ("seed", None),
        ("seed", [0]),
        ("student", None),
    ],
)
def test_an_experiment_with_a_field_of_another_type_is_refused(
    path: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run")
    first, _, second = path.partition(".")
    content = json.loads((run / "experiment.json").read_text())
    content[first] = content.get(first, {}) | {second: value} if second else value
    (run / "experiment.json").write_text(json.dumps(content))
    refused(["evaluate", str(run)], capsys)


def test_runs_without_a_seed_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["compare", str(run_folder(tmp_path / "run", {"seed": None}))], capsys)


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("summary.json", {"epochs": "3"}),
        ("summary.json", {"wall_seconds": [1]}),
        ("summary.json", {"student": 5}),
        ("summary.json", {"student": {"test": [1]}}),
        ("summary.json", {"teacher": {"test": {"top1": "high"}}}),
        ("summary.json", {"student_parameters": -3}),
        ("environment.json", {"hardware": "a machine"}),
        ("environment.json", {"earlier": {"hardware": {}}}),
        ("environment.json", {"earlier": ["a start"]}),
        ("metrics.jsonl", {"epoch": "1"}),
        ("metrics.jsonl", {"epoch": None}),
        ("metrics.jsonl", {"epoch": True}),
        ("metrics.jsonl", {"test": 5}),
        ("metrics.jsonl", {"test": {"top1": None}}),
        ("metrics.jsonl", {"terms": []}),
        ("metrics.jsonl", {"terms": {"ce": {"raw": "1"}}}),
        ("metrics.jsonl", {"seconds": "long"}),
    ],
)
def test_other_files_of_a_run_are_held_to_their_types(
    file: str, fields: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", {"seed": 0})
    (run / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
    assert main(["compare", str(run)]) == 0
    capsys.readouterr()
    usual = ROW if file == "metrics.jsonl" else {}
    (run / file).write_text(json.dumps(usual | fields) + "\n")
    assert next(iter(fields)) in refused(["compare", str(run)], capsys) or "'top1'" in str(fields)


@pytest.mark.parametrize("file", ["experiment.json", "summary.json", "environment.json", "metrics.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "5",
        '"x"',
        '{"epoch": 1',
        '{"epoch": NaN}',
        '{"epoch": 1e999}',
        "\xff",
        pytest.param(DEEP, id="deep"),
    ],
)
def test_what_is_no_object_of_json_is_refused(
    file: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", {"seed": 0})
    (run / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
    # A line is one only with its end; half a one is what a killed process leaves.
    (run / file).write_bytes(content.encode("latin-1") + b"\n")
    refused(["compare", str(run)], capsys)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"model": "resnet8"', '{"num_classes": NaN}', "\xff", pytest.param(DEEP, id="deep")]
)
def test_a_student_file_that_is_no_object_is_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run")
    (run / STUDENT_CONFIG).write_bytes(content.encode("latin-1"))
    refused(["cost", str(run)], capsys)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_devices_and_folders_are_not_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    for name in ("summary.json", "metrics.jsonl", STUDENT_CONFIG):
        (run / name).unlink(missing_ok=True)
        make(run / name)
    for read in (lambda: RunFolder(run).summary, RunFolder(run).read_metrics, lambda: read_student_file(run)):
        with pytest.raises(InputError, match=r"is (a pipe|a device|a folder)|cannot be read: Is a directory"):
            read()
    for name in (STUDENT_WEIGHTS, "w.pt"):
        (run / name).unlink(missing_ok=True)
        make(run / name)
        with pytest.raises(InputError, match="no weights file"):
            open_model(f"resnet8@{run / name}")


def test_a_file_too_large_for_a_run_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(LARGEST_JSON + 1)
    with pytest.raises(InputError, match=r"the most that such a file can have"):
        read_object(tmp_path / "large.json")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(tmp_path / "run")
    weights = safetensors.torch.load_file(run / STUDENT_WEIGHTS)
    weights["fc.weight"][0, 0] = torch.nan
    safetensors.torch.save_file(weights, run / STUDENT_WEIGHTS)
    assert "NaN" in refused(["evaluate", str(run), "--device", "cpu"], capsys)


@pytest.mark.parametrize("file", ["/etc/passwd", "/dev/null", "/proc/self/environ"])
def test_files_that_are_no_weights_are_refused_in_one_line(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["cost", f"resnet8@{file}"], capsys)
    assert "weights_only" not in said
    assert file in said


def test_true_is_no_number_in_an_experiment() -> None:
    with pytest.raises(InputError, match=r"task_weight must be a number, not True"):
        from_json({"recipe": "", "student": "resnet8", "task_weight": True})
    with pytest.raises(InputError, match="student of the experiment is missing"):
        from_json({"recipe": ""})
