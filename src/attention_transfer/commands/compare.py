"""`compare RUN...`: one table of finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Flags:
    """Group runs that differ only in their seed and show means over seeds.

    Args:
        runs: run folders, or folders of run folders.
        format: a table in Markdown, or everything as JSON.
        curves: also draw test and training loss over epochs into this file (PNG).
        over: settings that are numbers, by the end of their path in experiment.json, such as `layers.first`: test
            accuracy is drawn over them into `plot`, a line for each, and across for runs that have none of them.
        plot: file of that picture (PNG).
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    format: Literal["markdown", "json"] = "markdown"
    curves: Path | None = None
    over: tuple[str, ...] = ()
    plot: Path | None = None


def command(arguments: Sequence[str]) -> None:
    """Run `compare`."""
    flags = tyro.cli(Flags, prog="attention-transfer compare", args=list(arguments))
    if not flags.runs:
        raise ValueError("give at least one run folder, or a folder of runs")
    if bool(flags.over) != bool(flags.plot):
        raise ValueError("give --over and --plot together: what to draw over, and into which file")
    from attention_transfer.report.compare import compare
    from attention_transfer.report.table import to_json, to_markdown
    from attention_transfer.runs import find_runs

    runs = find_runs(flags.runs)
    comparison = compare(runs)
    print(to_json(comparison) if flags.format == "json" else to_markdown(comparison))
    if flags.curves is not None:
        from attention_transfer.report.plots import curves_figure

        curves_figure(runs, flags.curves)
        print(f"curves: {flags.curves}")
    if flags.plot is not None:
        from attention_transfer.report.settings_plot import settings_figure

        settings_figure(runs, flags.over, flags.plot)
        print(f"plot: {flags.plot}")
