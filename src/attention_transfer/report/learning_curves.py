"""Learning curves: test accuracy over epochs, and the epochs after which an accuracy is reached."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attention_transfer.errors import InputError
from attention_transfer.report.groups import MeasuredRun, grouped
from attention_transfer.report.plots import INK, save
from attention_transfer.report.table import DASH, markdown_table
from attention_transfer.runs import RecordedRun


def accuracy_figure(runs: Iterable[RecordedRun], path: str | Path, reach: Sequence[float] = ()) -> None:
    """Draw test top-1 over epochs: a colour for each group of runs that differ in their seed only, thick for the mean.

    Args:
        runs: with at least one measured epoch among them.
        path: where the picture goes; its suffix chooses the format.
        reach: accuracies in percent, drawn as lines across.

    Raises:
        ValueError: no run was measured yet.
    """
    groups = {name: [run for run in members if run.series("test", "top1")] for name, members in _grouped(runs).items()}
    groups = {name: members for name, members in groups.items() if members}
    if not groups:
        raise InputError("there is nothing to draw: no run has measured its student yet")
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    ax = figure.subplots()
    for number, (name, members) in enumerate(groups.items()):
        curves = [run.series("test", "top1") for run in members]
        for curve in curves:
            ax.plot(list(curve), list(curve.values()), color=f"C{number % 10}", alpha=0.35, linewidth=0.8)
        shared = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)]
        means = [float(np.mean([curve[epoch] for curve in curves])) for epoch in shared]
        ax.plot(shared, means, color=f"C{number % 10}", linewidth=1.8, marker=".", label=name)
    for accuracy in reach:
        ax.axhline(accuracy, color=INK, linestyle=":", linewidth=1.0)
    ax.set_xlabel("epoch", fontsize=8)
    ax.set_ylabel("test top-1, %", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    save(figure, path)


def epochs_to_reach(run: MeasuredRun, accuracy: float) -> int | None:
    """The first measured epoch with at least this test top-1 in percent; None if there is none."""
    return min((epoch for epoch, top1 in run.series("test", "top1").items() if top1 >= accuracy), default=None)


def reached_markdown(runs: Iterable[RecordedRun], accuracies: Sequence[float]) -> str:
    """A table of epochs after which each group of runs reaches some accuracies, mean over seeds.

    Where only some seeds reach one, it says how many, and the mean is over these.

    Args:
        runs: finished or not.
        accuracies: in percent.
    """
    rows: list[list[str]] = []
    for name, members in _grouped(runs).items():
        cells = [name, str(len(members))]
        for accuracy in accuracies:
            found = [epoch for run in members if (epoch := epochs_to_reach(run, accuracy)) is not None]
            some = f" ({len(found)} of {len(members)})" if len(found) < len(members) else ""
            cells.append(f"{np.mean(found):.1f}{some}" if found else DASH)
        rows.append(cells)
    header = ["epochs until test top-1 is at least", "seeds", *(f"{accuracy:g} %" for accuracy in accuracies)]
    return "\n".join(markdown_table(header, rows))


def _grouped(runs: Iterable[RecordedRun]) -> dict[str, list[MeasuredRun]]:
    return grouped(MeasuredRun.read(run) for run in runs)
