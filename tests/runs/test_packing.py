"""`compare --pack`: finished runs in one file, which says the same as their folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from attention_transfer.cli import main
from attention_transfer.runs import RunFolder, find_runs

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
