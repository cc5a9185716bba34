"""`compare RUN...`: one table of finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.errors import InputError, printable

if TYPE_CHECKING:
    from attention_transfer.runs.search import FoundRun


@dataclass(frozen=True)
class Flags:
    """Group runs that differ only in their seed and show means over seeds.

    Args:
        runs: run folders, tables of runs (.jsonl), or folders that hold some; PATH#PATTERN chooses runs of a table or
            a folder by their names, as in 'runs.jsonl#kd_*'.
        format: a table in Markdown, or everything as JSON.
        curves: also draw test and training loss over epochs into this file (PNG).
        accuracy: also draw test accuracy over epochs into this file (PNG).
        reach: accuracies in percent: also say after how many epochs each is reached, and mark them in `accuracy`.
        over: settings that are numbers, by the end of their path in experiment.json, such as `layers.first`: test
            accuracy is drawn over them into `plot`, a line for each, and across for runs that have none of them.
        plot: file of that picture (PNG).
        pack: also write these runs into this file, a table of runs (.jsonl) that is read as their folders are.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    format: Literal["markdown", "json"] = "markdown"
    curves: Path | None = None
    accuracy: Path | None = None
    reach: tuple[float, ...] = ()
    over: tuple[str, ...] = ()
    plot: Path | None = None
    pack: Path | None = None


def command(arguments: Sequence[str]) -> None:
    """Run `compare`."""
    flags = parsed(Flags, "compare", arguments)
    if not flags.runs:
        raise InputError("give at least one run folder, or a folder of runs")
    if bool(flags.over) != bool(flags.plot):
        raise InputError("give --over and --plot together: what to draw over, and into which file")
    if flags.reach and flags.format == "json":
        raise InputError("--reach prints a table in Markdown: leave out --format json")
    from attention_transfer.report.compare import compare
    from attention_transfer.report.plots import check_picture
    from attention_transfer.report.table import to_json, to_markdown
    from attention_transfer.runs.search import named_runs

    for picture in (flags.curves, flags.accuracy, flags.plot):
        check_picture(picture)
    named = named_runs(flags.runs)
    runs = [each.run for each in named]
    table = None if flags.pack is None else _packed(named, flags.pack)
    comparison = compare(runs)
    print(to_json(comparison) if flags.format == "json" else printable(to_markdown(comparison)))
    if flags.reach:
        from attention_transfer.report.learning_curves import reached_markdown

        print(printable(reached_markdown(runs, flags.reach)))
    if flags.accuracy is not None:
        from attention_transfer.report.learning_curves import accuracy_figure

        accuracy_figure(runs, flags.accuracy, flags.reach)
        print(f"accuracy: {flags.accuracy}")
    if flags.curves is not None:
        from attention_transfer.report.plots import curves_figure

        curves_figure(runs, flags.curves)
        print(f"curves: {flags.curves}")
    if flags.plot is not None:
        from attention_transfer.report.settings_plot import settings_figure

        settings_figure(runs, flags.over, flags.plot)
        print(f"plot: {flags.plot}")
    if flags.pack is not None and table is not None:
        _write(flags.pack, table, named)


def _packed(runs: "Sequence[FoundRun]", file: Path) -> bytes:
    """The table that will be written, before anything is printed."""
    from attention_transfer.runs.packing import check_table, packed

    check_table(file, runs)
    return packed(runs)


def _write(file: Path, table: bytes, runs: "Sequence[FoundRun]") -> None:
    from attention_transfer.runs.packing import left_beside, write_packed

    write_packed(file, table)
    print(printable(f"packed: {len(runs)} runs in {file}"))
    left = left_beside(runs)
    if left:
        listed = ", ".join(f"{name} of {count}" for name, count in left.items())
        print(printable(f"not in it, and only in their run folders: {listed}"))
