"""A paper's table beside the runs that were made for it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from attention_transfer.report.reproduction import Entry, Reproduction, reproduction, to_json, to_markdown
from attention_transfer.runs import RunFolder

PAIR = "big-small"
PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("teacher", PAIR): {"top1": 80.0, "epoch": "last", "origin": "copied", "top5": None},
    ("ce", PAIR): {"top1": 70.0, "epoch": "last", "origin": "copied", "top5": None},
    ("cat", PAIR): {"top1": 75.0, "epoch": "best", "origin": "own", "top5": None},
}


def write_run(path: Path, seed: int, last: float, best: float, *, finished: bool = True) -> RunFolder:
    experiment = {"seed": seed, "teacher": "big", "methods": []}
    with RunFolder.create_or_resume(path, experiment) as run:
        run.write_environment({"hardware": {"processor": "Some CPU", "threads": 1, "device": "cpu"}})
        for epoch, top1 in ((1, best), (2, last)):
            run.append_metrics({"epoch": epoch, "terms": {}, "test": {"loss": 1.0, "top1": top1, "count": 500}})
        if finished:
            run.write_summary({"wall_seconds": 30.0, "teacher": {"test": {"top1": 79.0}}})
    return RunFolder(path)


def made(
    folder: Path, tops: Mapping[str, Mapping[int, tuple[float, float]]], changes: tuple[str, ...] = ()
) -> Reproduction:
    entries = [
        Entry(row, PAIR, 2, tuple(write_run(folder / f"{row}{seed}", seed, *top) for seed, top in seeds.items()))
        for row, seeds in tops.items()
    ]
    return reproduction("Some table", entries, PUBLISHED, alone="ce", changes=changes, source="Somebody 2023")


BOTH = {"ce": {0: (70.0, 71.0), 1: (72.0, 72.0)}, "cat": {0: (74.0, 76.0), 1: (75.0, 75.5)}}


def test_our_best_epoch_stands_beside_a_best_epoch_and_our_last_beside_a_last(tmp_path: Path) -> None:
    teacher, alone, cat = made(tmp_path, BOTH).lines
    assert (teacher.last_epoch.mean, teacher.published["top1"]) == (79.0, 80.0)  # pyright: ignore
    assert alone.last_epoch is not None
    assert (alone.last_epoch.mean, alone.last_epoch.std) == (71.0, pytest.approx(stdev([70, 72])))
    assert alone.difference == pytest.approx(1.0)
    assert cat.best_on_test is not None
    assert cat.best_on_test.mean == pytest.approx(75.75)
    assert cat.difference == pytest.approx(0.75)
    assert (alone.minus_alone, alone.published_minus_alone) == (None, None)
    assert cat.minus_alone is not None
    assert (cat.minus_alone.mean, cat.minus_alone.count) == (pytest.approx(3.5), 2)
    assert cat.published_minus_alone == pytest.approx(5.0)
    assert (cat.seeds, cat.paths) == ((0, 1), (str(tmp_path / "cat0"), str(tmp_path / "cat1")))


def test_the_table_has_both_and_says_where_numbers_are_from(tmp_path: Path) -> None:
    text = to_markdown(made(tmp_path, BOTH))
    rows = {
        cells[1].strip(): [c.strip() for c in cells[2:-1]]
        for cells in (x.split("|") for x in text.splitlines())
        if len(cells) > 3
    }
    assert rows[""][:4] == ["seeds", "last epoch", "best on test", "minus alone"]
    assert rows["cat"][:6] == ["0, 1", "74.50 ± 0.71", "75.75 ± 0.35", "+3.50 ± 0.71", "75.00 (best)", "+5.00"]
    assert rows["cat"][6:] == ["+0.75", "30 s"]
    assert rows["teacher"][1:3] == ["79.00", ""]
    assert "Published: Somebody 2023" in text
    assert "Not the paper's own, copied: teacher, ce." in text
    assert "500 test images" in text
    assert "Unfinished" not in text


def test_another_protocol_is_labelled_and_not_subtracted(tmp_path: Path) -> None:
    table = made(tmp_path, BOTH, ("epochs 3 instead of 240",))
    text = to_markdown(table)
    assert "**Not the protocol of the table**" in text
    assert "epochs 3 instead of 240" in text
    assert all(line.difference is None for line in table.lines)
    assert "ours − published" not in text
    assert "75.00 (best)" in text


def test_differences_to_the_student_alone_are_paired_by_seed(tmp_path: Path) -> None:
    tops = {"ce": {0: (70.0, 70.0)}, "cat": {0: (71.0, 71.0), 1: (99.0, 99.0)}}
    table = made(tmp_path, tops)
    cat = table.lines[-1]
    assert cat.minus_alone is not None
    assert (cat.minus_alone.mean, cat.minus_alone.count) == (1.0, 1)
    assert "Unfinished, left out: 1 of 4 runs." in to_markdown(table)


def test_cells_without_a_finished_run_stay_empty(tmp_path: Path) -> None:
    unfinished = write_run(tmp_path / "x", 0, 50.0, 50.0, finished=False)
    finished = write_run(tmp_path / "y", 0, 60.0, 60.0)
    entries = [Entry("ce", PAIR, 1, (finished,)), Entry("cat", PAIR, 1, (unfinished,)), Entry("kd", PAIR, 1, ())]
    lines = {line.row: line for line in reproduction("T", entries, PUBLISHED, alone="ce", source="S").lines}
    assert (lines["cat"].seeds, lines["cat"].last_epoch, lines["cat"].difference) == ((), None, None)
    assert (lines["kd"].published, lines["kd"].seeds) == (None, ())
    with pytest.raises(ValueError, match="no run of this table is finished"):
        reproduction("T", entries[1:], PUBLISHED, alone="ce")


def test_costs_have_columns_of_their_own(tmp_path: Path) -> None:
    cost = {"time_ratio": 1.234, "extra_parameters": 12345, "extra_bytes": 2_500_000}
    run = write_run(tmp_path / "y", 0, 60.0, 60.0)
    entries = [Entry("ce", PAIR, 1, (run,)), Entry("cat", PAIR, 1, (), cost)]
    text = to_markdown(reproduction("T", entries, {}, alone="ce"))
    assert "time of a step ÷ alone" in text
    assert re.search(r"\| +1\.23 \| +12,345 \| +2\.5 MB \|", text)
    assert "published" not in text


def test_columns_have_tables_of_their_own_and_json_is_unrounded(tmp_path: Path) -> None:
    run = write_run(tmp_path / "y", 0, 60.125, 60.125)
    entries = [Entry("cat", column, 1, (run,)) for column in ("a-b", "c-d")]
    table = reproduction("T", entries, {}, alone=None)
    text = to_markdown(table)
    assert [line for line in text.splitlines() if line.startswith("###")] == ["### a-b", "### c-d"]
    content = json.loads(to_json(table, "command line"))
    assert content["command"] == "command line"
    assert content["lines"][-1]["last_epoch"]["mean"] == 60.125
