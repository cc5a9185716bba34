r"""Table of a comparison, as GitHub Markdown that also reads well in a terminal, and as JSON.

>>> print("\n".join(markdown_table(["run", "top-1"], [["kd", "71.5"], ["baseline", "69.1"]])))
| run      | top-1 |
| -------- | ----: |
| kd       |  71.5 |
| baseline |  69.1 |
>>> duration(750)
'12.5 min'
"""

import json
from collections.abc import Sequence
from dataclasses import asdict

from attention_transfer.report.compare import Comparison, Group, Spread

DASH = "–"


def to_markdown(comparison: Comparison) -> str:
    """The table with its notes; top-1 in percent on the test images, mean ± sample standard deviation over seeds."""
    unseen = any(group.unseen for group in comparison.groups)
    header = [
        "",
        "seeds",
        "last epoch",
        *(["unseen"] if unseen else []),
        "best on validation",
        "best on test",
        "minus first",
        "training time",
        "epochs",
        "samples seen",
    ]
    rows = [
        [f"teacher {teacher.name}", "", f"{teacher.top1:.2f}", *[""] * (len(header) - 3)]
        for teacher in comparison.teachers
    ]
    rows += [_row(group, unseen=unseen) for group in comparison.groups]
    return "\n".join([*markdown_table(header, rows), "", *_notes(comparison)]) + "\n"


def to_json(comparison: Comparison) -> str:
    """The comparison as JSON, unrounded."""
    return json.dumps(asdict(comparison), indent=2, ensure_ascii=False) + "\n"


def _row(group: Group, *, unseen: bool) -> list[str]:
    return [
        group.name,
        ", ".join(map(str, group.seeds)),
        percent(group.last_epoch),
        *([percent(group.unseen)] if unseen else []),
        percent(group.best_on_validation),
        percent(group.best_on_test),
        percent(group.difference, sign="+"),
        duration(group.wall_seconds.mean) if group.wall_seconds else DASH,
        _range(group.epochs),
        _range(group.samples_seen),
    ]


def duration(seconds: float) -> str:
    """A time for people: `41 s`, `12.5 min`, `3.2 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def percent(spread: Spread | None, sign: str = "") -> str:
    """A mean ± standard deviation for people; a dash where there is none."""
    if spread is None:
        return DASH
    return f"{spread.mean:{sign}.2f} ± {DASH if spread.std is None else format(spread.std, '.2f')}"


def _range(numbers: Sequence[int]) -> str:
    if not numbers:
        return DASH
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,}–{numbers[-1]:,}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: first column to the left, the others to the right, all as wide as their longest cell."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(header))]

    sides = "<" + ">" * (len(header) - 1)

    def line(cells: Sequence[str]) -> str:
        padded = (f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = [line(row) for row in rows]
    return [lines[0], f"| {' | '.join(rule)} |", *lines[1:]]


def _notes(comparison: Comparison) -> list[str]:
    counts = sorted({count for group in comparison.groups for count in group.test_count})
    tested = " or ".join(dict.fromkeys(group.tested for group in comparison.groups))
    images = f" on {_range(counts)} {tested}" if counts else ""
    notes = [
        f"Top-1 in percent{images}, mean ± sample standard deviation over seeds. «Best on test» selects on the test"
        " images and is too good by nature: compare it only with papers that report the same.",
    ]
    if any(group.unseen for group in comparison.groups):
        notes.append(
            "«Unseen» is the last epoch's top-1 on the test images of the classes that `train_classes` leaves out."
        )
    if len(comparison.groups) > 1:
        notes.append(
            f"«Minus first» is the last epoch's difference to {comparison.groups[0].name} in points, paired by seed."
        )
    hardware = list(dict.fromkeys(group.hardware for group in comparison.groups if group.hardware))
    if len(hardware) == 1:
        notes.append(f"Hardware: {'; '.join(hardware[0])}.")
    else:
        notes += [
            f"Hardware of {group.name}: {'; '.join(group.hardware)}." for group in comparison.groups if group.hardware
        ]
    for run in comparison.unfinished:
        planned = "" if run.planned_epochs is None else f" of {run.planned_epochs}"
        notes.append(f"Unfinished, left out: {run.path} ({run.name}, seed {run.seed}, {run.epochs}{planned} epochs).")
    notes += [f"Warning: {warning}" for warning in comparison.warnings]
    return [f"- {note}" for note in notes]
