"""Table of a sweep: one row for each combination of values, averaged over seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attention_transfer.errors import InputError
from attention_transfer.report.compare import Spread, spread
from attention_transfer.report.groups import MeasuredRun, tested_images
from attention_transfer.report.table import duration, markdown_table, percent
from attention_transfer.runs import RecordedRun

SEED = "seed"
DASH = "–"


@dataclass(frozen=True)
class Ends:
    """A loss term in the first and in the last epoch that has it: means over the epoch's batches, spread over seeds.

    Args:
        first_raw: before its weight.
        first_weighted: as it enters the loss.
        last_raw: before its weight.
        last_weighted: as it enters the loss.
    """

    first_raw: Spread
    first_weighted: Spread
    last_raw: Spread
    last_weighted: Spread


@dataclass(frozen=True)
class Row:
    """Finished runs that differ only in their seed.

    Args:
        values: as typed, by field; a field that means nothing here is not among them.
        seeds: ascending.
        paths: run folders, in the order of the seeds.
        last_epoch: test top-1 in percent after the last epoch.
        best_on_validation: test top-1 in percent at the first epoch with the best validation top-1; None without
            validation images.
        unseen: top-1 in percent after the last epoch on the test images of classes without training images; None
            where a run was trained on all classes.
        terms: by name.
        wall_seconds: of the training steps of a run.
    """

    values: Mapping[str, str]
    seeds: tuple[int, ...]
    paths: tuple[str, ...]
    last_epoch: Spread | None
    best_on_validation: Spread | None
    unseen: Spread | None
    terms: Mapping[str, Ends]
    wall_seconds: Spread | None


@dataclass(frozen=True)
class SweepTable:
    """All rows of a sweep.

    Args:
        fields: that were swept, without the seed.
        rows: in the order of the sweep.
        planned: number of runs that the sweep has.
        unfinished: folders of runs that were begun and are left out.
        notes: what to know when reading the numbers.
    """

    fields: tuple[str, ...]
    rows: tuple[Row, ...]
    planned: int
    unfinished: tuple[str, ...]
    notes: tuple[str, ...]


def tabulate(fields: Sequence[str], runs: Sequence[tuple[Mapping[str, str], RecordedRun]], planned: int) -> SweepTable:
    """Average the finished runs of a sweep over their seeds.

    Args:
        fields: that were swept, in order.
        runs: values by field and the folder of each run that was begun, in order.
        planned: number of runs that the sweep has.

    Raises:
        ValueError: if no run is finished.
    """
    members: dict[tuple[tuple[str, str], ...], list[MeasuredRun]] = {}
    for values, folder in runs:
        if folder.finished:
            without_seed = tuple((name, value) for name, value in values.items() if name != SEED)
            members.setdefault(without_seed, []).append(MeasuredRun.read(folder))
    if not members:
        raise InputError("no run of this sweep is finished: there is nothing to put into a table")
    rows = tuple(_row(dict(values), sorted(each, key=lambda run: run.seed)) for values, each in members.items())
    unfinished = tuple(str(folder.path) for _, folder in runs if not folder.finished)
    everyone = [run for each in members.values() for run in each]
    notes = tuple(_notes(rows, everyone, planned, unfinished))
    return SweepTable(tuple(name for name in fields if name != SEED), rows, planned, unfinished, notes)


def to_markdown(table: SweepTable) -> str:
    """The table with its notes; terms as the mean over the first epoch → over the last."""
    terms = list(dict.fromkeys(name for row in table.rows for name in row.terms))
    weighted = [name for name in terms if any(_is_weighted(row.terms[name]) for row in table.rows if name in row.terms)]
    validated = any(row.best_on_validation for row in table.rows)
    unseen = any(row.unseen for row in table.rows)
    header = [*table.fields, "seeds", "test top-1"]
    header += [*(["unseen"] if unseen else []), *(["best on validation"] if validated else [])]
    header += [label for name in terms for label in (name, *([f"{name} × weight"] if name in weighted else []))]
    header += ["training time"]
    lines: list[list[str]] = []
    for row in table.rows:
        cells = [row.values.get(name, DASH) for name in table.fields]
        cells += [", ".join(map(str, row.seeds)), percent(row.last_epoch)]
        cells += [percent(row.unseen)] if unseen else []
        cells += [percent(row.best_on_validation)] if validated else []
        for name in terms:
            ends = row.terms.get(name)
            cells.append(_way(ends.first_raw, ends.last_raw) if ends else DASH)
            if name in weighted:
                cells.append(_way(ends.first_weighted, ends.last_weighted) if ends else DASH)
        lines.append([*cells, duration(row.wall_seconds.mean) if row.wall_seconds else DASH])
    return "\n".join([*markdown_table(header, lines), "", *(f"- {note}" for note in table.notes)]) + "\n"


def to_json(table: SweepTable, command: str) -> str:
    """The table as JSON, unrounded, with the command that made it."""
    return json.dumps({"command": command} | asdict(table), indent=2, ensure_ascii=False) + "\n"


def _row(values: dict[str, str], runs: Sequence[MeasuredRun]) -> Row:
    names = dict.fromkeys(name for run in runs for row in run.rows for name in row.get("terms", {}))
    return Row(
        values,
        tuple(run.seed for run in runs),
        tuple(run.path for run in runs),
        spread([run.last_epoch() for run in runs]),
        spread([run.best_on_validation() for run in runs]),
        spread([run.last_epoch("unseen") for run in runs]),
        {name: _ends(name, runs) for name in names},
        spread([(run.summary or {}).get("wall_seconds") for run in runs]),
    )


def _ends(name: str, runs: Sequence[MeasuredRun]) -> Ends:
    found: list[list[dict[str, Any]]] = [
        [terms[name] for row in run.rows if name in (terms := row.get("terms", {}))] for run in runs
    ]

    def mean(epoch: int, kind: str) -> Spread:
        value = spread([terms[epoch].get(kind, math.nan) for terms in found if terms])
        assert value is not None
        return value

    return Ends(mean(0, "raw"), mean(0, "weighted"), mean(-1, "raw"), mean(-1, "weighted"))


def _is_weighted(ends: Ends) -> bool:
    return ends.first_raw != ends.first_weighted or ends.last_raw != ends.last_weighted


def _way(first: Spread, last: Spread) -> str:
    return f"{first.mean:.3g} → {last.mean:.3g}"


def _notes(rows: Sequence[Row], runs: Sequence[MeasuredRun], planned: int, unfinished: Sequence[str]) -> list[str]:
    counts = sorted({row["test"]["count"] for run in runs for row in run.rows if (row.get("test") or {}).get("count")})
    images = f" on {', '.join(f'{count:,}' for count in counts)} {tested_images(runs)}" if counts else ""
    notes = [
        f"Top-1 in percent after the last epoch{images}, mean ± sample standard deviation over seeds. Loss terms are"
        " means over the first epoch → over the last."
    ]
    teachers = {
        f"{run.experiment.get('teacher')} {test['top1']:.2f} %": None
        for run in runs
        if (test := ((run.summary or {}).get("teacher") or {}).get("test"))
    }
    if any(row.unseen for row in rows):
        notes.append("«Unseen» is the same on the test images of classes that the student did not learn from.")
    if teachers:
        notes.append(f"Teacher on the same images: {', '.join(teachers)}.")
    hardware = dict.fromkeys(each for run in runs for each in run.hardware)
    if hardware:
        notes.append(f"Hardware: {'; '.join(hardware)}.")
    if len(hardware) > 1:
        notes.append("Warning: times are not comparable: the hardware, or the use of a teacher cache, differs.")
    if len({row.seeds for row in rows}) > 1:
        notes.append("Warning: means are not comparable, the rows have different seeds.")
    if len(runs) < planned:
        begun = f"; begun: {', '.join(unfinished)}" if unfinished else ""
        notes.append(f"Unfinished, left out: {planned - len(runs)} of {planned} runs{begun}.")
    return notes
