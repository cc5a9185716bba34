"""Tables of sweeps, and a paper's table beside the runs that were made for it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from matplotlib.figure import Figure

from attention_transfer.report.reproduction import Entry, Reproduction, reproduction
from attention_transfer.report.reproduction import to_json as reproduction_to_json
from attention_transfer.report.reproduction import to_markdown as reproduction_to_markdown
from attention_transfer.report.sweep import SweepTable, tabulate, to_json, to_markdown
from attention_transfer.report.sweep_plot import draw_sweep, sweep_figure
from attention_transfer.runs import RunFolder


def write_run(
    path: Path,
    seed: int,
    top1: float,
    at: tuple[float, float] | None = (0.02, 0.01),
    weight: float = 100.0,
    finished: bool = True,
    validation: float | None = None,
    processor: str = "Some CPU",
    unseen: float | None = None,
) -> RunFolder:
    with RunFolder.create_or_resume(path, {"seed": seed, "teacher": "resnet14", "methods": []}) as run:
        run.write_environment({"hardware": {"processor": processor, "threads": 1, "device": "cpu"}})
        for epoch in (1, 2):
            terms = {"ce": {"raw": 3.0 - epoch, "weight": 1.0, "weighted": 3.0 - epoch}}
            if at:
                raw = at[epoch - 1]
                terms["at"] = {"raw": raw, "weight": weight, "weighted": weight * raw}
            row = {"epoch": epoch, "terms": terms, "test": {"loss": 1.0, "top1": top1 - 2 + epoch, "count": 500}}
            others = {"validation": validation, "unseen": unseen}
            run.append_metrics(row | {name: {"top1": value} for name, value in others.items() if value is not None})
        if finished:
            run.write_summary({"wall_seconds": 30.0 + seed, "teacher": {"test": {"top1": 90.0}}})
    return RunFolder(path)


Swept = Sequence[tuple[Mapping[str, str], float]]


def swept(folder: Path, runs: Swept, fields: Sequence[str], planned: int | None = None) -> SweepTable:
    folders: list[tuple[Mapping[str, str], RunFolder]] = []
    for number, (values, top1) in enumerate(runs):
        folders.append((values, write_run(folder / str(number), int(values.get("seed", 0)), top1)))
    return tabulate(fields, folders, planned or len(folders))


def drawn(table: SweepTable):
    figure = Figure()
    ax = figure.subplots()
    draw_sweep(ax, table)
    return ax


def test_rows_are_values_without_the_seed_averaged_over_seeds(tmp_path: Path):
    runs = [({"at.weight": w, "seed": s}, t) for w, s, t in (("0", "1", 50.0), ("0", "0", 54.0), ("9", "0", 60.0))]
    table = swept(tmp_path, runs, ("at.weight", "seed"))
    assert table.fields == ("at.weight",)
    first, second = table.rows
    assert (first.values, first.seeds) == ({"at.weight": "0"}, (0, 1))
    assert first.paths == (str(tmp_path / "1"), str(tmp_path / "0"))
    assert first.last_epoch is not None
    assert (first.last_epoch.mean, first.last_epoch.std) == (52.0, pytest.approx(stdev([50, 54])))
    assert first.wall_seconds is not None
    assert first.wall_seconds.mean == 30.5
    assert (second.values, second.seeds) == ({"at.weight": "9"}, (0,))
    assert any("different seeds" in note for note in table.notes)


def test_terms_are_shown_raw_and_weighted_in_the_first_and_the_last_epoch(tmp_path: Path):
    runs: list[tuple[Mapping[str, str], RunFolder]] = [
        ({"methods": "none"}, write_run(tmp_path / "none", 0, 50.0, at=None)),
        ({"methods": "at"}, write_run(tmp_path / "at0", 0, 60.0, at=(0.02, 0.01))),
        ({"methods": "at"}, write_run(tmp_path / "at1", 1, 61.0, at=(0.04, 0.03))),
    ]
    table = tabulate(["methods"], runs, 3)
    ends = table.rows[1].terms["at"]
    values = [each.mean for each in (ends.first_raw, ends.last_raw, ends.first_weighted, ends.last_weighted)]
    assert values == pytest.approx([0.03, 0.02, 3.0, 2.0])
    header, _, none, taught = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in to_markdown(table).splitlines()[:4]
    ]
    assert header == ["methods", "seeds", "test top-1", "ce", "at", "at × weight", "training time"]
    assert none == ["none", "0", "50.00 ± –", "2 → 1", "–", "–", "30 s"]
    assert taught == ["at", "0, 1", "60.50 ± 0.71", "2 → 1", "0.03 → 0.02", "3 → 2", "30 s"]


def test_json_holds_everything_and_the_command(tmp_path: Path):
    table = swept(tmp_path, [({"epochs": "1"}, 50.0), ({"epochs": "2"}, 60.0)], ("epochs",))
    content = json.loads(to_json(table, "attention-transfer sweep digits"))
    assert content["command"] == "attention-transfer sweep digits"
    assert [row["values"] for row in content["rows"]] == [{"epochs": "1"}, {"epochs": "2"}]
    assert content["rows"][1]["terms"]["at"]["last_weighted"] == {"mean": 1.0, "std": None, "count": 1}


def test_runs_that_are_not_finished_are_counted_and_named_and_in_no_mean(tmp_path: Path):
    runs: list[tuple[Mapping[str, str], RunFolder]] = [
        ({"seed": "0"}, write_run(tmp_path / "a", 0, 50.0)),
        ({"seed": "1"}, write_run(tmp_path / "b", 1, 90.0, finished=False)),
    ]
    table = tabulate(["seed"], runs, 5)
    assert table.rows[0].last_epoch is not None
    assert table.rows[0].last_epoch.mean == 50.0
    assert f"4 of 5 runs; begun: {tmp_path / 'b'}" in to_markdown(table)
    with pytest.raises(ValueError, match="no run of this sweep is finished"):
        tabulate(["seed"], runs[1:], 5)


def test_validation_and_other_hardware_are_said_where_there_are_some(tmp_path: Path):
    runs: list[tuple[Mapping[str, str], RunFolder]] = [
        ({"x": "1"}, write_run(tmp_path / "a", 0, 50.0, validation=70.0)),
        ({"x": "2"}, write_run(tmp_path / "b", 0, 60.0, validation=70.0, processor="Another")),
    ]
    text = to_markdown(tabulate(["x"], runs, 2))
    assert "best on validation" in text
    assert "times are not comparable" in text
    assert "Teacher on the same images: resnet14 90.00 %" in text


def test_classes_that_were_not_learned_from_have_a_column(tmp_path: Path):
    runs: list[tuple[Mapping[str, str], RunFolder]] = [
        ({"train-classes": "5"}, write_run(tmp_path / "a", 0, 50.0, unseen=12.0)),
        ({"train-classes": "none"}, write_run(tmp_path / "b", 0, 60.0)),
    ]
    header, _, some, everything = to_markdown(tabulate(["train-classes"], runs, 2)).splitlines()[:4]
    column = [cell.strip() for cell in header.split("|")].index("unseen")
    assert [line.split("|")[column].strip() for line in (some, everything)] == ["12.00 ± –", "–"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (("1", "2", "4"), "linear"),
        (("0", "1", "20"), "linear"),
        (("1", "100", "1000"), "log"),
        (("0", "1", "1000"), "symlog"),
    ],
)
def test_numbers_far_apart_get_a_logarithmic_axis_that_has_room_for_zero(
    tmp_path: Path, values: tuple[str, ...], scale: str
):
    table = swept(tmp_path, [({"at.weight": value}, 50.0 + i) for i, value in enumerate(values)], ("at.weight",))
    ax = drawn(table)
    assert ax.get_xscale() == scale
    assert list(ax.get_xticks()) == [float(value) for value in values]
    ends = ax.transAxes.inverted().transform(ax.transData.transform([(float(values[i]), 50.0) for i in (0, -1)]))
    assert list(ends[:, 0]) == pytest.approx([1 / 22, 21 / 22])


def test_there_is_a_line_for_each_value_of_a_second_field_with_whiskers_over_seeds(tmp_path: Path):
    runs = [
        ({"methods": m, "at.weight": w, "seed": s}, 50.0 + 10 * int(s) + len(m))
        for m in ("at", "kd+at")
        for w in ("10", "1")
        for s in ("0", "1")
    ]
    runs.append(({"methods": "none", "seed": "0"}, 40.0))
    ax = drawn(swept(tmp_path, runs, ("methods", "at.weight", "seed")))
    handles, labels = ax.get_legend_handles_labels()
    assert sorted(labels) == ["methods=at", "methods=kd+at", "methods=none"]
    line = handles[labels.index("methods=at")].lines[0]
    assert list(line.get_xdata()) == [1.0, 10.0]
    assert list(line.get_ydata()) == [57.0, 57.0]
    whiskers = handles[labels.index("methods=at")].lines[2][0].get_segments()
    assert whiskers[0][1][1] - whiskers[0][0][1] == pytest.approx(2 * stdev([0, 10]))
    across = handles[labels.index("methods=none")]
    assert list(across.get_ydata()) == [40.0, 40.0]


def test_words_are_bars_and_a_sweep_of_seeds_alone_is_one_bar(tmp_path: Path):
    runs = [({"methods": m, "augment": a}, 50.0 + i) for i, m in enumerate(("at", "none")) for a in ("crop", "none")]
    ax = drawn(swept(tmp_path / "words", runs, ("methods", "augment")))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["at", "none"]
    assert sorted(patch.get_height() for patch in ax.patches) == [50.0, 50.0, 51.0, 51.0]
    assert ax.get_ylim()[0] == 0
    alone = drawn(swept(tmp_path / "seeds", [({"seed": "0"}, 50.0), ({"seed": "1"}, 60.0)], ("seed",)))
    assert [patch.get_height() for patch in alone.patches] == [55.0]


def test_the_picture_is_written_whole(tmp_path: Path):
    table = swept(tmp_path / "runs", [({"epochs": "1"}, 50.0), ({"epochs": "2"}, 60.0)], ("epochs",))
    sweep_figure(table, tmp_path / "new" / "sweep.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sweep.png"]


# ---------------- A paper's table beside the runs that were made for it

PAIR = "big-small"
PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("teacher", PAIR): {"top1": 80.0, "epoch": "last", "origin": "copied", "top5": None},
    ("ce", PAIR): {"top1": 70.0, "epoch": "last", "origin": "copied", "top5": None},
    ("cat", PAIR): {"top1": 75.0, "epoch": "best", "origin": "own", "top5": None},
}


def write_table_run(path: Path, seed: int, last: float, best: float, *, finished: bool = True) -> RunFolder:
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
        Entry(row, PAIR, 2, tuple(write_table_run(folder / f"{row}{seed}", seed, *top) for seed, top in seeds.items()))
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
    text = reproduction_to_markdown(made(tmp_path, BOTH))
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
    text = reproduction_to_markdown(table)
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
    assert "Unfinished, left out: 1 of 4 runs." in reproduction_to_markdown(table)


def test_cells_without_a_finished_run_stay_empty(tmp_path: Path) -> None:
    unfinished = write_table_run(tmp_path / "x", 0, 50.0, 50.0, finished=False)
    finished = write_table_run(tmp_path / "y", 0, 60.0, 60.0)
    entries = [Entry("ce", PAIR, 1, (finished,)), Entry("cat", PAIR, 1, (unfinished,)), Entry("kd", PAIR, 1, ())]
    lines = {line.row: line for line in reproduction("T", entries, PUBLISHED, alone="ce", source="S").lines}
    assert (lines["cat"].seeds, lines["cat"].last_epoch, lines["cat"].difference) == ((), None, None)
    assert (lines["kd"].published, lines["kd"].seeds) == (None, ())
    with pytest.raises(ValueError, match="no run of this table is finished"):
        reproduction("T", entries[1:], PUBLISHED, alone="ce")


def test_costs_have_columns_of_their_own(tmp_path: Path) -> None:
    cost = {"time_ratio": 1.234, "extra_parameters": 12345, "extra_bytes": 2_500_000}
    run = write_table_run(tmp_path / "y", 0, 60.0, 60.0)
    entries = [Entry("ce", PAIR, 1, (run,)), Entry("cat", PAIR, 1, (), cost)]
    text = reproduction_to_markdown(reproduction("T", entries, {}, alone="ce"))
    assert "time of a step ÷ alone" in text
    assert re.search(r"\| +1\.23 \| +12,345 \| +2\.5 MB \|", text)
    assert "published" not in text


def test_columns_have_tables_of_their_own_and_json_is_unrounded(tmp_path: Path) -> None:
    run = write_table_run(tmp_path / "y", 0, 60.125, 60.125)
    entries = [Entry("cat", column, 1, (run,)) for column in ("a-b", "c-d")]
    table = reproduction("T", entries, {}, alone=None)
    text = reproduction_to_markdown(table)
    assert [line for line in text.splitlines() if line.startswith("###")] == ["### a-b", "### c-d"]
    content = json.loads(reproduction_to_json(table, "command line"))
    assert content["command"] == "command line"
    assert content["lines"][-1]["last_epoch"]["mean"] == 60.125
