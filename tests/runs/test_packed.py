"""Tables of runs that somebody else may have written: read as run folders are, or refused by file and line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attention_transfer.errors import InputError
from attention_transfer.runs import NotARunError, RunFolder, find_runs
from attention_transfer.runs.packed import LARGEST_TABLE, is_packed, read_packed

RUN: dict[str, Any] = {
    "run": "kd_seed0",
    "experiment": {"student": "resnet8", "seed": 0, "methods": [{"name": "kd"}]},
    "metrics": [{"epoch": 1, "test": {"top1": 12.5, "count": 8}}],
    "summary": {"epochs": 1, "wall_seconds": 0.1},
    "environment": {"hardware": {"processor": "Some CPU"}},
    "findings": {"localisation": {"hit": 0.5}},
}


def write(folder: Path, *records: dict[str, Any], name: str = "runs.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def test_a_line_reads_as_its_run_folder_would(tmp_path: Path):
    file = write(tmp_path, RUN)
    with RunFolder.create_or_resume(tmp_path / "elsewhere" / "kd_seed0", RUN["experiment"]) as folder:
        folder.write_environment(RUN["environment"])
        folder.append_metrics(RUN["metrics"][0])
        folder.write_finding("localisation", RUN["findings"]["localisation"])
        folder.write_summary(RUN["summary"])
    (run,) = find_runs([file])
    assert run.path == tmp_path / "kd_seed0"
    assert run.finished
    assert folder.finished
    assert run.experiment == folder.experiment == RUN["experiment"]
    assert run.environment == folder.environment == RUN["environment"]
    assert run.summary == folder.summary == RUN["summary"]
    assert run.read_metrics() == folder.read_metrics() == RUN["metrics"]
    assert run.read_findings() == folder.read_findings() == RUN["findings"]


def test_what_one_reader_changes_no_other_reads(tmp_path: Path):
    (run,) = find_runs([write(tmp_path, RUN)])
    run.experiment["seed"] = 7
    run.read_metrics()[0]["epoch"] = 9
    assert run.experiment["seed"] == 0
    assert run.read_metrics()[0]["epoch"] == 1


def test_a_table_that_was_written_anew_is_read_anew(tmp_path: Path):
    file = write(tmp_path, RUN)
    assert len(read_packed(file)) == 1
    write(tmp_path, RUN, RUN | {"run": "kd_seed1"})
    assert len(read_packed(file)) == 2


def test_environment_and_findings_may_be_missing_and_lines_end_as_windows_ends_them(tmp_path: Path):
    bare = {key: value for key, value in RUN.items() if key not in ("environment", "findings")}
    file = tmp_path / "runs.jsonl"
    file.write_bytes(f"{json.dumps(bare)}\r\n".encode())
    (run,) = find_runs([file])
    assert (run.environment, run.read_findings()) == (None, {})


WRONG: dict[str, tuple[object, str]] = {
    "a list": ([1], "holds a list, where an object"),
    "no name": ({key: value for key, value in RUN.items() if key != "run"}, "'run' of line 2 .* and is missing"),
    "a number for a name": (RUN | {"run": 3}, "'run' of line 2 .* must be a text"),
    "up": (RUN | {"run": "../x"}, "calls a run '../x'"),
    "up inside": (RUN | {"run": "a/../../x"}, "calls a run"),
    "absolute": (RUN | {"run": "/etc/x"}, "calls a run '/etc/x'"),
    "a home": (RUN | {"run": "~/x"}, "calls a run"),
    "a drive": (RUN | {"run": "C:x"}, "calls a run"),
    "a backslash": (RUN | {"run": "a\\..\\x"}, "calls a run"),
    "empty": (RUN | {"run": ""}, "calls a run ''"),
    "here": (RUN | {"run": "."}, "calls a run"),
    "two slashes": (RUN | {"run": "a//b"}, "calls a run"),
    "a control character": (RUN | {"run": "a\x1b[2J"}, "text without control characters"),
    "half a character": (RUN | {"run": "a\ud800"}, "text without control characters"),
    "the same again": (RUN, "holds the run 'kd_seed0', which line 1 holds already"),
    "no experiment": (RUN | {"run": "b", "experiment": None}, "'experiment' of line 2 .* must be an object"),
    "an experiment of text": (RUN | {"run": "b", "experiment": "x"}, "'experiment' of line 2 .* must be an object"),
    "a seed of text": (RUN | {"run": "b", "experiment": {"seed": "0"}}, "'seed' of 'experiment' in line 2"),
    "no summary": (RUN | {"run": "b", "summary": None}, "'summary' of line 2 .* must be an object"),
    "a wall of text": (RUN | {"run": "b", "summary": {"wall_seconds": "1"}}, "'wall_seconds' of 'summary' in line 2"),
    "metrics of an object": (RUN | {"run": "b", "metrics": {"epoch": 1}}, "'metrics' of line 2 .* a list of objects"),
    "metrics of numbers": (RUN | {"run": "b", "metrics": [1]}, "'metrics' of line 2 .* a list of objects"),
    "a row without epoch": (RUN | {"run": "b", "metrics": [{"test": {}}]}, "'epoch' of row 1 of 'metrics' in line 2"),
    "a score of text": (
        RUN | {"run": "b", "metrics": [{"epoch": 1, "test": {"top1": "12"}}]},
        "'test' of row 1 of 'metrics' in line 2",
    ),
    "an environment of text": (RUN | {"run": "b", "environment": "x"}, "'environment' of line 2"),
    "findings of a list": (RUN | {"run": "b", "findings": []}, "'findings' of line 2 .* must be an object"),
    "a finding of a number": (RUN | {"run": "b", "findings": {"x": 1}}, "the finding 'x' of line 2"),
    "a finding that leads out": (RUN | {"run": "b", "findings": {"../x": {}}}, "calls a finding '../x'"),
    "something more": (RUN | {"run": "b", "weights": "x"}, "line 2 .* holds 'weights', and a run has experiment"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_line_that_is_no_run_is_refused_by_file_and_line(case: str, tmp_path: Path):
    record, message = WRONG[case]
    file = tmp_path / "runs.jsonl"
    file.write_text(f"{json.dumps(RUN)}\n{json.dumps(record)}\n")
    with pytest.raises(InputError, match=message) as refused:
        find_runs([file])
    assert f"line 2 of {file}" in str(refused.value)
    with pytest.raises(InputError, match=message):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (json.dumps(RUN).encode()[:-30], "is not JSON"),
        (b'{"run": "a", "experiment": {"x": NaN}}', "NaN is no number of JSON"),
        (b'{"run": "a", "experiment": {"x": 1e999}}', "too large a number"),
        (b'{"run": "a", "experiment": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "nested too deep|is not JSON"),
        (b"PK\x03\x04\x00\x00", "is not JSON"),
    ],
    ids=["half", "blank", "bytes", "cut", "nan", "infinite", "deep", "archive"],
)
def test_a_line_that_is_no_json_is_refused_by_file_and_line(line: bytes, message: str, tmp_path: Path):
    file = tmp_path / "runs.jsonl"
    file.write_bytes(json.dumps(RUN).encode() + b"\n" + line + b"\n")
    with pytest.raises(InputError, match=message) as refused:
        find_runs([file])
    assert f"line 2 of {file}" in str(refused.value)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def folder(file: Path) -> None:
    file.mkdir()


def huge(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(LARGEST_TABLE + 1)


def pipe(file: Path) -> None:
    os.mkfifo(file)


def absent(file: Path) -> None:
    assert not file.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty, "holds no run: it is empty"),
        (folder, "holds no run"),
        (huge, "are the most that such a file can have"),
        (pipe, "is not a folder; give a run folder, a folder of runs, or a table"),
        (absent, "is not a folder; give a run folder, a folder of runs, or a table"),
    ],
)
def test_what_is_no_file_of_runs_is_refused(make: Callable[[Path], None], message: str, tmp_path: Path):
    if make is pipe and not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes here")
    file = tmp_path / "runs.jsonl"
    make(file)
    with pytest.raises(InputError, match=message):
        find_runs([file])


def test_other_files_of_lines_in_a_folder_of_runs_are_nobodys_business(tmp_path: Path):
    write(tmp_path, RUN)
    (tmp_path / "log.jsonl").write_text('{"run": "x", "loss": 1}\n')
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n')
    (tmp_path / "broken.jsonl").write_bytes(b"\xff")
    assert [run.path.name for run in find_runs([tmp_path])] == ["kd_seed0"]
    assert not is_packed(tmp_path / "log.jsonl")
    with pytest.raises(InputError, match=r"line 1 of .*log\.jsonl"):
        find_runs([tmp_path / "log.jsonl"])


def test_a_link_in_a_folder_of_runs_leads_to_no_table(tmp_path: Path):
    write(tmp_path, RUN)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "runs.jsonl").symlink_to(tmp_path / "runs.jsonl")
    with pytest.raises(NotARunError, match="holds no run"):
        find_runs([tmp_path / "shared"])
