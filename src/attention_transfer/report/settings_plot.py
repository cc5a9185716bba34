"""Finished runs as one plot: test top-1 over settings in which they differ, one line for each."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attention_transfer.errors import InputError
from attention_transfer.report.compare import Spread, spread
from attention_transfer.report.groups import MeasuredRun, grouped, method_name
from attention_transfer.report.plots import save
from attention_transfer.runs import RecordedRun


def settings_figure(runs: Iterable[RecordedRun], over: Sequence[str], path: str | Path) -> None:
    """Draw test top-1 after the last epoch over one or more settings that are numbers, with whiskers over seeds.

    The settings share an axis, a line for each, and for each choice of methods: how many of the first and how many of
    the last layers were copied, say. Groups of runs that have none of them are dotted lines across.

    Args:
        runs: those that are finished count.
        over: settings by the end of their path in `experiment.json`, such as `layers.first`.
        path: where the picture goes; its suffix chooses the format.

    Raises:
        ValueError: if no finished run has one of these settings, a group has several, or two groups of the same methods
            share a place.
    """
    lines: dict[tuple[str, str], dict[float, Spread]] = {}
    across: dict[str, Spread] = {}
    for name, group in grouped(MeasuredRun.read(run) for run in runs if run.finished).items():
        measured = spread([run.last_epoch() for run in group])
        given = {field: number for field in over if (number := _number(group[0], field)) is not None}
        if len(given) > 1:
            raise InputError(f"{name} has {' and '.join(given)}: draw over one of them, or leave these runs out")
        if measured is None:
            continue
        for field, number in given.items():
            line = lines.setdefault((field, method_name(group[0].experiment)), {})
            if number in line:
                raise InputError(
                    f"two groups of runs have {field}={number:g}, one of them {name}: they differ in something else; "
                    "draw them apart"
                )
            line[number] = measured
        if not given:
            across[name] = measured
    if not lines:
        raise InputError(f"no finished run has a number for {' or '.join(over)}")
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    _draw(figure.subplots(), lines, across)
    save(figure, path)


def _number(run: MeasuredRun, field: str) -> float | None:
    """A setting of a run, if it is a number."""
    found = [value for key, value in run.settings.items() if f".{key}".endswith(f".{field}")]
    numbers = {float(value) for value in found if isinstance(value, int | float) and not isinstance(value, bool)}
    if len(numbers) > 1:
        raise InputError(
            f"{run.path} has several settings {field}: write more of the path, such as attention-copy.{field}"
        )
    return numbers.pop() if numbers else None


def _draw(ax: Axes, lines: dict[tuple[str, str], dict[float, Spread]], across: dict[str, Spread]) -> None:
    colours = iter(range(len(lines) + len(across)))
    several = len({methods for _, methods in lines}) > 1
    for (field, methods), points in lines.items():
        ordered = sorted(points.items())
        ax.errorbar(
            [number for number, _ in ordered],
            [measured.mean for _, measured in ordered],
            yerr=[measured.std or 0.0 for _, measured in ordered],
            color=f"C{next(colours) % 10}",
            marker="o",
            markersize=4,
            linewidth=1.4,
            capsize=3,
            label=f"{methods}, {field}" if several else field,
        )
    for name, measured in across.items():
        colour = f"C{next(colours) % 10}"
        ax.axhline(measured.mean, color=colour, linestyle=":", linewidth=1.4, label=name)
        ax.axhspan(
            measured.mean - (measured.std or 0.0), measured.mean + (measured.std or 0.0), color=colour, alpha=0.12,
            linewidth=0,
        )  # fmt: skip
    ax.set_xlabel(", ".join(dict.fromkeys(field for field, _ in lines)), fontsize=8)
    ax.set_ylabel("test top-1 after the last epoch, %", fontsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=7)
    ax.grid(axis="y", alpha=0.25, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
