"""Runs at and below what a user names, and those recorded under other names of settings."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment, to_json
from attention_transfer.experiment.record import read_experiment
from attention_transfer.methods import METHODS, SoftTargets
from attention_transfer.runs import NotARunError, RunExistsError, RunFolder, find_runs, recorded_run, renamed_settings
from attention_transfer.runs.packing import packed
from attention_transfer.runs.renamed_settings import RENAMED, Renamed, with_current_names
from attention_transfer.runs.search import named_runs


def train(path: Path, seed: int = 0, *, finished: bool = True) -> RunFolder:
    with RunFolder.create_or_resume(path, {"student": "resnet8", "seed": seed}) as run:
        run.append_metrics({"epoch": 1, "test": {"top1": 0.1 + seed}})
        if finished:
            run.write_summary({"epochs": 1, "wall_seconds": 1e-05})
    return run


def pack(folder: Path, file: Path) -> Path:
    """The runs of a folder as a table, and the folder gone."""
    file.write_bytes(packed(named_runs([folder])))
    return file


def names(root: Path, *paths: str | Path) -> list[str]:
    return [run.path.relative_to(root).as_posix() for run in find_runs([root / path for path in paths])]


def test_a_table_stands_for_its_folders_in_their_order(tmp_path: Path):
    for place in ("a", "b-0", "b/seed1", "b/seed0", "b10"):
        train(tmp_path / "whole" / place)
    (tmp_path / "table").mkdir()
    pack(tmp_path / "whole", tmp_path / "table" / "runs.jsonl")
    order = ["a", "b/seed0", "b/seed1", "b-0", "b10"]
    assert names(tmp_path / "whole", ".") == order
    assert names(tmp_path / "table", ".") == names(tmp_path / "table", "runs.jsonl") == order


def test_folders_and_tables_are_read_together(tmp_path: Path):
    train(tmp_path / "a" / "b")
    pack(tmp_path / "a", tmp_path / "runs.jsonl")
    train(tmp_path / "0")
    train(tmp_path / "c" / "x")
    pack(tmp_path / "c", tmp_path / "c" / "some.jsonl")
    assert names(tmp_path, ".") == ["0", "a/b", "b", "c/x"]


def test_a_run_that_lies_beside_its_table_counts_once(tmp_path: Path):
    train(tmp_path / "a")
    file = pack(tmp_path, tmp_path / "runs.jsonl")
    for paths in (["."], ["a", file], [file, "a"], [file, "runs.jsonl#a"]):
        assert names(tmp_path, *paths) == ["a"]
    (found,) = find_runs([file, tmp_path / "a"])
    assert isinstance(found, RunFolder)


def test_a_run_that_is_another_one_in_its_table_is_refused(tmp_path: Path):
    run = train(tmp_path / "a")
    pack(tmp_path, tmp_path / "runs.jsonl")
    summary = tmp_path / "a" / "summary.json"
    summary.write_text(json.dumps((run.summary or {}) | {"wall_seconds": 2}))
    with pytest.raises(InputError, match=r"two records of .*a differ.* delete or rename one"):
        find_runs([tmp_path])
    summary.unlink()
    with pytest.raises(InputError, match="two records"):
        find_runs([tmp_path])


def test_two_tables_may_hold_the_same_run_but_no_other_of_that_name(tmp_path: Path):
    train(tmp_path / "one" / "a", seed=0)
    train(tmp_path / "two" / "a", seed=1)
    first = pack(tmp_path / "one", tmp_path / "first.jsonl")
    (tmp_path / "copy.jsonl").write_bytes(first.read_bytes())
    assert names(tmp_path, "first.jsonl", "copy.jsonl") == ["a"]
    assert recorded_run(tmp_path / "a") is not None
    pack(tmp_path / "two", tmp_path / "second.jsonl")
    with pytest.raises(InputError, match="two records"):
        find_runs([tmp_path / "first.jsonl", tmp_path / "second.jsonl"])
    with pytest.raises(InputError, match="two records"):
        recorded_run(tmp_path / "a")


@pytest.mark.parametrize("packed_first", [False, True])
def test_patterns_choose_runs_of_folders_and_tables_alike(tmp_path: Path, packed_first: bool):
    root = tmp_path / "table"
    for place in ("kd_seed0", "kd_seed1", "at_seed0", "at#2", "weights/at", "weights/kd"):
        train(root / place)
    if packed_first:
        (tmp_path / "other").mkdir()
        pack(root, tmp_path / "other" / "runs.jsonl")
        root = tmp_path / "other"
    assert names(root, f"{root}#kd_*") == ["kd_seed0", "kd_seed1"]
    assert names(root, f"{root}#*_seed0", f"{root}#kd_*") == ["at_seed0", "kd_seed0", "kd_seed1"]
    assert names(root, f"{root}#*") == names(root, ".")
    assert names(root, f"{root}#weights/*") == names(root, f"{root}#weights") == ["weights/at", "weights/kd"]
    assert names(root, f"{root}#?t_seed[01]") == ["at_seed0"]
    assert names(root, f"{root}#at#2") == ["at#2"]
    for pattern in ("", "KD*", "*/seed0", "../*", "kd_seed0/x"):
        with pytest.raises(NotARunError, match=r"holds no run called '.*'; it holds at"):
            find_runs([f"{root}#{pattern}"])


def test_what_is_really_called_so_is_no_pattern(tmp_path: Path):
    train(tmp_path / "a#b")
    train(tmp_path / "a" / "b")
    assert names(tmp_path, "a#b") == ["a#b"]
    with pytest.raises(NotARunError, match="is not a folder"):
        find_runs([tmp_path / "absent#b"])


def test_one_run_is_found_in_place_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train(tmp_path / "whole" / "weights" / "a")
    folder = tmp_path / "table"
    folder.mkdir()
    pack(tmp_path / "whole", folder / "runs.jsonl")
    for path in (folder / "weights" / "a", tmp_path / "whole" / "weights" / "a"):
        run = recorded_run(path)
        assert run is not None
        assert run.path == path
    for path in (folder / "a", folder / "weights", tmp_path / "a", folder / "weights" / "a" / "b"):
        assert recorded_run(path) is None
    monkeypatch.chdir(folder)
    assert recorded_run("weights/a") is not None
    for nothing in (".", "/", "..", "weights/../a", "no\0name"):
        assert recorded_run(nothing) is None


# ---------------- runs that were recorded under other names of settings

TODAY = Experiment("small", "resnet8", "resnet14", (SoftTargets(temperature=2.0),))
RENAMES = (
    Renamed("", "label_weight", "task_weight", "0.2.0"),
    Renamed("training", "num_epochs", "epochs", "0.2.0"),
    Renamed("kd", "tau", "temperature", "0.2.0"),
)


def recorded() -> dict[str, Any]:
    """The experiment of today as the names of before had it."""
    text = json.dumps(to_json(TODAY))
    for each in RENAMES:
        text = text.replace(f'"{each.new}":', f'"{each.old}":')
    return json.loads(text)


def test_names_are_todays_wherever_they_stand_and_values_are_left_alone():
    assert recorded() != to_json(TODAY)
    assert with_current_names(recorded(), "a run", RENAMES) == to_json(TODAY)
    assert list(with_current_names(recorded(), "a run", RENAMES)) == list(to_json(TODAY))
    assert with_current_names(to_json(TODAY), "a run", RENAMES) == to_json(TODAY)


def test_methods_and_sections_of_another_name_are_left_alone():
    other = {"methods": [{"name": "at", "tau": 1.0}, "no method"], "training": None, "data": {"num_epochs": 1}}
    assert with_current_names(other, "a run", RENAMES) == other


def test_a_folder_of_before_is_read_resumed_and_refused_like_one_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    RunFolder.create_or_resume(tmp_path / "run", recorded()).close()
    monkeypatch.setattr(renamed_settings, "RENAMED", RENAMES)
    assert read_experiment(RunFolder(tmp_path / "run")) == TODAY
    RunFolder.create_or_resume(tmp_path / "run", to_json(TODAY)).close()
    changed = Experiment("small", "resnet8", "resnet14", (SoftTargets(temperature=3.0),))
    with pytest.raises(RunExistsError, match=r"methods\.0\.temperature is 2\.0 there, 3\.0 now"):
        RunFolder.create_or_resume(tmp_path / "run", to_json(changed))


def test_a_setting_under_both_names_is_refused():
    both = {"training": {"num_epochs": 1, "epochs": 2}}
    with pytest.raises(InputError, match=r"a run has both 'num_epochs' and 'epochs'.*remove 'num_epochs'"):
        with_current_names(both, "a run", RENAMES)


def test_every_renamed_setting_exists_under_its_new_name_alone():
    sections = {field.name for field in fields(Experiment)}
    experiment = to_json(Experiment("small", "resnet8"))
    for each in RENAMED:
        assert each.section in {"", *sections, *METHODS}
        names = (
            {field.name for field in fields(METHODS[each.section])}
            if each.section in METHODS
            else {*(experiment[each.section] if each.section else experiment)}
        )
        assert each.new in names
        assert each.old not in names
