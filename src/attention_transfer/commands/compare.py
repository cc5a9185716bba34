"""`compare RUN...`: one table of finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from attention_transfer.errors import InputError, printable


@dataclass(frozen=True)
class Flags:
    """Group runs that differ only in their seed and show means over seeds.

    Args:
        runs: run folders, or folders of run folders.
        format: a table in Markdown, or everything as JSON.
        curves: also draw test and training loss over epochs into this file (PNG).
        accuracy: also draw test accuracy over epochs into this file (PNG).
        reach: accuracies in percent: also say after how many epochs each is reached, and mark them in `accuracy`.
        over: settings that are numbers, by the end of their path in experiment.json, such as `layers.first`: test
            accuracy is drawn over them into `plot`, a line for each, and across for runs that have none of them.
        plot: file of that picture (PNG).
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    format: Literal["markdown", "json"] = "markdown"
    curves: Path | None = None
    accuracy: Path | None = None
    reach: tuple[float, ...] = ()
    over: tuple[str, ...] = ()
    plot: Path | None = None


def command(arguments: Sequence[str]) -> None:
    """Run `compare`."""
    flags = tyro.cli(Flags, prog="attention-transfer compare", args=list(arguments))
    if not flags.runs:
        raise InputError("give at least one run folder, or a folder of runs")
    if bool(flags.over) != bool(flags.plot):
        raise InputError("give --over and --plot together: what to draw over, and into which file")
    if flags.reach and flags.format == "json":
        raise InputError("--reach prints a table in Markdown: leave out --format json")
    from attention_transfer.report.compare import compare
    from attention_transfer.report.pictures import check_picture
    from attention_transfer.report.table import to_json, to_markdown
    from attention_transfer.runs import find_runs

    for picture in (flags.curves, flags.accuracy, flags.plot):
        check_picture(picture)
    runs = find_runs(flags.runs)
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
