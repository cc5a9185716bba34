"""Reproduction of a paper's table: published numbers beside those of your runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from attention_transfer.errors import InputError
from attention_transfer.report.compare import Spread, spread
from attention_transfer.report.groups import MeasuredRun, tested_images
from attention_transfer.report.table import DASH, duration, markdown_table, percent
from attention_transfer.runs import RecordedRun

_TEACHER = "teacher"


@dataclass(frozen=True)
class Entry:
    """One cell of a table and its runs.

    Args:
        row: mostly a method.
        column: mostly a pair of networks.
        planned: how many runs it shall have.
        runs: that were begun.
        cost: of a training step, as `reproduce --cost` measures it; None where it was not.
    """

    row: str
    column: str
    planned: int
    runs: tuple[RecordedRun, ...]
    cost: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Line:
    """One cell as the table shows it.

    Args:
        row: mostly a method.
        column: mostly a pair of networks.
        seeds: of finished runs, ascending.
        paths: of their folders.
        last_epoch: test top-1 in percent after the last epoch; None without a finished run.
        best_on_test: best test top-1 of any epoch, which is too good by nature.
        minus_alone: `last_epoch` minus that of the baseline, in points, paired by seed.
        published: `top1`, `epoch` and `origin` as a paper has them; None where it has nothing.
        published_minus_alone: published number minus that of the baseline, in points.
        difference: ours minus published, in points: of the same kind of epoch, and only under the whole protocol.
        wall_seconds: of the training steps of a run.
        cost: of a training step.
    """

    row: str
    column: str
    seeds: tuple[int, ...]
    paths: tuple[str, ...]
    last_epoch: Spread | None
    best_on_test: Spread | None
    minus_alone: Spread | None
    published: Mapping[str, Any] | None
    published_minus_alone: float | None
    difference: float | None
    wall_seconds: Spread | None
    cost: Mapping[str, Any] | None


@dataclass(frozen=True)
class Reproduction:
    """A table with its runs.

    Args:
        title: in one line.
        changes: what differs from the protocol of the table, in words; empty under the whole protocol.
        lines: in the order of the table.
        notes: what to know when reading the numbers.
    """

    title: str
    changes: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def reproduction(
    title: str,
    entries: Sequence[Entry],
    published: Mapping[tuple[str, str], Mapping[str, Any]],
    *,
    alone: str | None,
    changes: Sequence[str] = (),
    source: str = "",
    images: Sequence[str] = (),
) -> Reproduction:
    """Put finished runs beside what was published.

    Args:
        title: of the table.
        entries: its cells, in order.
        published: by row and column: `top1` in percent, `epoch` (`last`, `best`, `unsaid`) and `origin`.
        alone: row of the baseline (the student without teacher), if there is one.
        changes: what differs from the protocol; if anything does, nothing is subtracted from published numbers.
        source: of the published numbers.
        images: files of the user's that were taken for the images of the table.

    Raises:
        ValueError: if no run is finished.
    """
    read = {
        (entry.row, entry.column): sorted(
            (MeasuredRun.read(run) for run in entry.runs if run.finished), key=lambda run: run.seed
        )
        for entry in entries
    }
    everyone = [run for runs in read.values() for run in runs]
    if not everyone:
        raise InputError("no run of this table is finished: there is nothing to put beside published numbers")
    lines: list[Line] = []
    for column in dict.fromkeys(entry.column for entry in entries):
        here = [entry for entry in entries if entry.column == column]
        base = published.get((alone or "", column))
        lines += _teacher(column, [run for entry in here for run in read[entry.row, column]], published)
        for entry in here:
            theirs = published.get((entry.row, column))
            lines.append(
                _line(entry, read[entry.row, column], read.get((alone or "", column), []), theirs, base, not changes)
            )
    notes = _notes(entries, everyone, lines, source, alone)
    notes += [f"Images are those of {name}, whatever it holds." for name in images]
    return Reproduction(title, tuple(changes), tuple(lines), tuple(notes))


def to_markdown(table: Reproduction) -> str:
    """A table for each column, with notes."""
    columns = list(dict.fromkeys(line.column for line in table.lines))
    text = [f"## {table.title}", ""]
    if table.changes:
        beside = ", so that its numbers must not be set beside published ones" if _any_published(table) else ""
        text += [f"**Not the protocol of the table**{beside}: {'; '.join(table.changes)}.", ""]
    for column in columns:
        lines = [line for line in table.lines if line.column == column]
        text += [f"### {column}", "", *_table(lines), ""]
    return "\n".join([*text, *(f"- {note}" for note in table.notes)]) + "\n"


def to_json(table: Reproduction, command: str) -> str:
    """Everything unrounded, with the command that made it."""
    return json.dumps({"command": command} | asdict(table), indent=2, ensure_ascii=False) + "\n"


def _any_published(table: Reproduction) -> bool:
    return any(line.published for line in table.lines)


def _line(
    entry: Entry,
    runs: Sequence[MeasuredRun],
    alone: Sequence[MeasuredRun],
    published: Mapping[str, Any] | None,
    base: Mapping[str, Any] | None,
    whole: bool,
) -> Line:
    last, best = spread([run.last_epoch() for run in runs]), spread([run.best_on_test() for run in runs])
    reference = {run.seed: run.last_epoch() for run in alone}
    pairs = [(run.last_epoch(), reference.get(run.seed)) for run in runs]
    gains = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    ours = best if published and published["epoch"] == "best" else last
    return Line(
        entry.row,
        entry.column,
        tuple(run.seed for run in runs),
        tuple(run.path for run in runs),
        last,
        best,
        None if alone is runs else spread(gains),
        published,
        published["top1"] - base["top1"] if published and base and published is not base else None,
        ours.mean - published["top1"] if published and ours and whole else None,
        spread([(run.summary or {}).get("wall_seconds") for run in runs]),
        entry.cost,
    )


def _teacher(
    column: str, runs: Sequence[MeasuredRun], published: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[Line]:
    """The teacher as the runs measured it, if they did."""
    found = [((run.summary or {}).get("teacher") or {}).get("test") for run in runs]
    distinct = list(dict.fromkeys(test["top1"] for test in found if test))
    theirs = published.get((_TEACHER, column))
    if not distinct and theirs is None:
        return []
    # More than one where arithmetic differs between runs.
    ours = Spread(mean(distinct), stdev(distinct) if len(distinct) > 1 else None, len(distinct)) if distinct else None
    return [Line(_TEACHER, column, (), (), ours, None, None, theirs, None, None, None, None)]


def _table(lines: Sequence[Line]) -> list[str]:
    compared, printed = any(line.minus_alone for line in lines), any(line.published for line in lines)
    subtracted = any(line.difference is not None for line in lines)
    gained = any(line.published_minus_alone is not None for line in lines)
    costed = any(line.cost for line in lines)
    header = ["", "seeds", "last epoch", "best on test", *(["minus alone"] if compared else [])]
    header += [*(["published"] if printed else []), *(["published, minus alone"] if gained else [])]
    header += [*(["ours − published"] if subtracted else []), "training time"]
    header += ["time of a step ÷ alone", "extra parameters", "extra memory"] if costed else []
    rows: list[list[str]] = []
    for line in lines:
        row = [line.row, ", ".join(map(str, line.seeds)), percent(line.last_epoch), percent(line.best_on_test)]
        if line.row == _TEACHER:
            row[2:] = [f"{line.last_epoch.mean:.2f}" if line.last_epoch else DASH, ""]
        row += [percent(line.minus_alone, sign="+")] if compared else []
        row += [_printed(line.published)] if printed else []
        row += [_points(line.published_minus_alone)] if gained else []
        row += [_points(line.difference)] if subtracted else []
        row += [duration(line.wall_seconds.mean) if line.wall_seconds else DASH]
        rows.append([*row, *(_costs(line.cost) if costed else [])])
    return markdown_table(header, rows)


def _printed(published: Mapping[str, Any] | None) -> str:
    if published is None:
        return DASH
    said = "" if published["epoch"] == "unsaid" else f" ({published['epoch']})"
    return f"{published['top1']:.2f}{said}"


def _points(value: float | None) -> str:
    return DASH if value is None else f"{value:+.2f}"


def _costs(cost: Mapping[str, Any] | None) -> list[str]:
    if cost is None:
        return [DASH] * 3
    return [
        f"{cost['time_ratio']:.2f}",
        f"{cost['extra_parameters']:,}",
        f"{cost['extra_bytes'] / 1e6:,.1f} MB",
    ]


def _notes(
    entries: Sequence[Entry], runs: Sequence[MeasuredRun], lines: Sequence[Line], source: str, alone: str | None
) -> list[str]:
    counts = sorted({row["test"]["count"] for run in runs for row in run.rows if (row.get("test") or {}).get("count")})
    images = f" on {', '.join(f'{count:,}' for count in counts)} {tested_images(runs)}" if counts else ""
    notes = [
        f"Top-1 in percent{images}, mean ± sample standard deviation over seeds. «Best on test» is too good by nature."
    ]
    if any(line.minus_alone for line in lines):
        notes.append(f"«Minus alone» is the last epoch's difference to {alone} in points, paired by seed.")
    if any(line.published for line in lines):
        notes.append(f"Published: {source}. In brackets the epoch, where it is said.")
        origins = {line.published["origin"] for line in lines if line.published}
        for origin in sorted(origins - {"own"}):
            rows = dict.fromkeys(line.row for line in lines if line.published and line.published["origin"] == origin)
            notes.append(f"Not the paper's own, {origin}: {', '.join(rows)}.")
        if any(line.difference is not None for line in lines):
            notes.append("«Ours − published» takes our best epoch where the published number is of the best one.")
    if any(line.cost for line in lines):
        notes.append(
            "Costs are of a step with its teacher against one of the student alone, taken in turns: the ratio of their "
            "times (median), what is learned beside the student, and the most bytes at once beyond the student's step, "
            "the teacher's weights included. Of methods with phases it is the last one."
        )
    hardware = dict.fromkeys(each for run in runs for each in run.hardware)
    if hardware:
        notes.append(f"Hardware: {'; '.join(hardware)}.")
    planned = sum(entry.planned for entry in entries)
    if len(runs) < planned:
        notes.append(f"Unfinished, left out: {planned - len(runs)} of {planned} runs.")
    return notes
