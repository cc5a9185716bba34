"""Finished runs in one file, which says what their folders say, and tables that somebody else may have written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attention_transfer.cli import main
from attention_transfer.errors import InputError
from attention_transfer.runs import NotARunError, RunFolder, find_runs
from attention_transfer.runs.packed import LARGEST_TABLE, is_packed, read_packed

# Numbers whose shortest decimal form is easily lost.
NUMBERS = (0.1, 1e-05, 1e22, 5e-324, 1.7976931348623157e308, -0.0, 2**60 + 1, 100.0, 0.30000000000000004)


def train(path: Path, seed: int = 0, *, methods: tuple[str, ...] = (), finished: bool = True) -> RunFolder:
    experiment = {"student": "resnet8", "seed": seed, "methods": [{"name": name} for name in methods]}
    with RunFolder.create_or_resume(path, experiment) as run:
        run.write_environment({"hardware": {"processor": "Prozessor «α»", "threads": 1}})
        for epoch, number in enumerate(NUMBERS, start=1):
            run.append_metrics({"epoch": epoch, "terms": {"ce": {"value": number}}, "test": {"top1": seed + 1 / epoch}})
        if finished:
            run.write_summary({"epochs": len(NUMBERS), "wall_seconds": 1e-05, "student": {"test": {"top1": 1 / 3}}})
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (1, 0):
        train(tmp_path / "runs" / f"ce_seed{seed}", seed)
        train(tmp_path / "runs" / "kd" / f"seed{seed}", seed, methods=("kd",))
    return tmp_path / "runs"


def compare(*words: str | Path) -> int:
    return main(["compare", *map(str, words)])


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert compare(*words) != 0
    printed = capsys.readouterr()
    return printed.out + printed.err


def test_a_table_compares_as_its_folders_did(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said: list[str] = []
    for form in ("markdown", "json"):
        assert compare(runs, "--format", form) == 0
        said.append(capsys.readouterr().out)
    assert compare(runs, "--pack", runs / "all.jsonl") == 0
    assert f"packed: 4 runs in {runs / 'all.jsonl'}" in capsys.readouterr().out
    for folder in ("ce_seed0", "ce_seed1", "kd"):
        shutil.rmtree(runs / folder)
    for form, before in zip(("markdown", "json"), said, strict=True):
        for place in (runs, runs / "all.jsonl", tmp_path):
            assert compare(place, "--format", form) == 0
            assert capsys.readouterr().out == before


def test_numbers_keep_their_digits_and_lines_their_order(runs: Path):
    file = runs.parent / "all.jsonl"
    assert compare(runs, "--pack", file) == 0
    lines = file.read_bytes().splitlines()
    assert [json.loads(line)["run"] for line in lines] == ["ce_seed0", "ce_seed1", "kd/seed0", "kd/seed1"]
    written = (runs / "ce_seed0" / "metrics.jsonl").read_bytes().splitlines()
    assert b'"metrics": [' + b", ".join(written) + b"]" in lines[0]
    assert "«α»".encode() in lines[0]


def test_packing_a_table_again_changes_no_byte(runs: Path, tmp_path: Path):
    first, second = tmp_path / "first.jsonl", tmp_path / "sub" / "second.jsonl"
    second.parent.mkdir()
    assert compare(runs, "--pack", first) == 0
    assert compare(first, "--pack", second) == 0
    assert second.read_bytes() == first.read_bytes()
    assert compare(first, "--pack", first) == 0
    assert second.read_bytes() == first.read_bytes()
    assert compare(runs / "kd", f"{second}#ce*", "--pack", tmp_path / "third.jsonl") == 0
    found = [json.loads(line)["run"] for line in (tmp_path / "third.jsonl").read_bytes().splitlines()]
    assert found == ["ce_seed0", "ce_seed1", "seed0", "seed1"]
    assert not list(tmp_path.rglob(".tmp-*"))


def test_new_run_folders_join_the_table_beside_them(runs: Path):
    file = runs / "runs.jsonl"
    assert compare(runs, "--pack", file) == 0
    for folder in ("ce_seed0", "ce_seed1", "kd"):
        shutil.rmtree(runs / folder)
    before = file.read_bytes().splitlines()
    train(runs / "ce_seed2", 2)
    assert compare(runs, "--pack", file) == 0
    assert sorted([*before, file.read_bytes().splitlines()[2]]) == sorted(file.read_bytes().splitlines())
    assert len(find_runs([file])) == 5


def test_findings_are_packed_and_what_is_no_json_stays(runs: Path, capsys: pytest.CaptureFixture[str]):
    run = RunFolder(runs / "ce_seed0")
    run.write_finding("localisation", {"hit": 0.1})
    run.write_finding("maps.npz", b"PK")
    (run.path / "student.safetensors").write_bytes(b"")
    (runs / "ce_seed1" / "student.safetensors").write_bytes(b"")
    file = runs / "runs.jsonl"
    assert compare(runs, "--pack", file) == 0
    said = capsys.readouterr().out
    assert "not in it, and only in their run folders: findings/maps.npz of 1, student.safetensors of 2" in said
    assert [each.read_findings() for each in find_runs([file])] == [{"localisation": {"hit": 0.1}}, {}, {}, {}]
    assert (run.path / "findings" / "maps.npz").read_bytes() == b"PK"


def test_unfinished_runs_are_refused_by_name(runs: Path, capsys: pytest.CaptureFixture[str]):
    train(runs / "half", 3, finished=False)
    assert f"{runs / 'half'} is not finished" in refusal(capsys, runs, "--pack", runs / "runs.jsonl")
    assert not (runs / "runs.jsonl").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", b"{"),
        ("experiment.json", b"[]"),
        ("environment.json", b'{"hardware": 1}'),
        ("metrics.jsonl", b"x\n"),
        ("findings/x.json", b"1"),
        ("findings/x.json", b"\xff"),
    ],
)
def test_runs_whose_files_cannot_be_read_are_refused(
    file: str, content: bytes, runs: Path, capsys: pytest.CaptureFixture[str]
):
    damaged = runs / "ce_seed0" / file
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(content)
    assert str(damaged) in refusal(capsys, runs, "--pack", runs / "runs.jsonl")
    assert not (runs / "runs.jsonl").exists()


@pytest.mark.parametrize("name", ["a:b", "a\\b", "a\nb"])
def test_a_run_that_could_not_be_read_again_is_refused(name: str, runs: Path, capsys: pytest.CaptureFixture[str]):
    try:
        train(runs / name)
    except (OSError, ValueError):
        pytest.skip("no folder here can be called so")
    assert "calls a run" in refusal(capsys, runs, "--pack", runs / "runs.jsonl")
    assert not (runs / "runs.jsonl").exists()


def test_half_a_character_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]):
    environment = runs / "ce_seed0" / "environment.json"
    environment.write_text('{"command": "\\ud800"}')
    assert "half a character" in refusal(capsys, runs, "--pack", runs / "runs.jsonl")


def test_two_runs_of_one_name_are_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train(tmp_path / "others" / "ce_seed0", 7)
    said = refusal(capsys, runs, tmp_path / "others", "--pack", tmp_path / "all.jsonl")
    assert "2 runs would be called 'ce_seed0': give the folder that holds them all" in said


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("table.md", None, "is no name of a table of runs"),
        ("metrics.jsonl", None, "is no name of a table of runs"),
        (".jsonl", None, "is no name of a table of runs"),
        ("ce_seed0/runs.jsonl", None, "would lie in a run folder"),
        ("notes.jsonl", b"", "is there already, and is no table of runs"),
        ("notes.jsonl", b'{"loss": 1}\n', "is there already, and is no table of runs"),
        ("notes.jsonl", b'{"run": "a", "experiment": {}}\n', "'summary' of line 1"),
        ("kd.jsonl", "folder", "is there already, and is no table of runs"),
        ("link.jsonl", "link", "is there already, and is no table of runs"),
        ("absent/runs.jsonl", None, "cannot be written"),
    ],
)
def test_a_file_that_is_something_else_is_left_alone(
    file: str, content: Any, message: str, runs: Path, capsys: pytest.CaptureFixture[str]
):
    place = runs / file
    if content == "folder":
        place.mkdir()
    elif content == "link":
        place.symlink_to(runs / "nowhere")
    elif content is not None:
        place.write_bytes(content)
    assert message in refusal(capsys, f"{runs}#ce*", "--pack", place)
    assert not isinstance(content, bytes) or place.read_bytes() == content


def test_no_run_of_a_table_is_lost(runs: Path, capsys: pytest.CaptureFixture[str]):
    file = runs / "runs.jsonl"
    assert compare(runs, "--pack", file) == 0
    before = file.read_bytes()
    assert "holds 2 runs that would be lost (kd/seed0, kd/seed1)" in refusal(capsys, f"{runs}#ce*", "--pack", file)
    assert file.read_bytes() == before


# ---------------------------------------------------------------- tables of runs that somebody else may have written

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
