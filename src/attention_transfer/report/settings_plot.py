"""Plots of measured numbers against each other or against settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attention_transfer.errors import InputError
from attention_transfer.report.compare import Spread, spread
from attention_transfer.report.groups import MeasuredRun, grouped, method_name
from attention_transfer.report.plots import save
from attention_transfer.runs import RecordedRun

_PANEL_INCHES = (2.9, 2.5)
_LEGEND_INCHES = 0.19  # per name
_INK = "#222222"
_MARKERS = "os^Dv"  # in turn, where there are more names than colours
_LINES = ("--", ":", "-.")


@dataclass(frozen=True)
class Panel:
    """One score of every network.

    Args:
        title: above the panel; may hold several lines.
        label: of the score's axis.
        values: one per network, in the order of their names.
        chance: what is reached without a network, drawn as lines, by name.
    """

    title: str
    label: str
    values: Sequence[float]
    chance: Mapping[str, float]


def scatter_figure(
    names: Sequence[str], accuracy: Sequence[float], rows: Sequence[Sequence[Panel]], path: str | Path
) -> None:
    """Draw one point per network in every panel, accuracy to the right and the score upwards.

    Args:
        names: of the networks, for the legend.
        accuracy: top-1 in percent, in their order.
        rows: panels from top to bottom and left to right; every row has the same number of them.
        path: where the picture goes; its suffix chooses the format.

    Raises:
        ValueError: nothing to draw, or numbers that do not fit the names.
    """
    widths = {len(row) for row in rows}
    if not names or len(widths) != 1 or 0 in widths:
        raise InputError("a picture needs at least one network and one panel, and rows of equal length")
    lengths = {len(accuracy), *(len(panel.values) for row in rows for panel in row)}
    if lengths != {len(names)}:
        raise InputError(f"{len(names)} networks need as many numbers in every panel, not {sorted(lengths)}")
    columns = widths.pop()
    legend = _LEGEND_INCHES * (len(names) + 1)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * len(rows) + legend), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for number, row in enumerate(rows):
        for column, panel in enumerate(row):
            _draw_scatter(axes[number, column], names, accuracy, panel)
    for ax in axes[-1]:
        ax.set_xlabel("top-1, %", fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", fontsize=7, frameon=False)
    save(figure, path)


def _draw_scatter(ax: Axes, names: Sequence[str], accuracy: Sequence[float], panel: Panel) -> None:
    colours = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    for number, (name, x, y) in enumerate(zip(names, accuracy, panel.values, strict=True)):
        marker = _MARKERS[number // len(colours) % len(_MARKERS)]
        ax.plot(x, y, marker, color=colours[number % len(colours)], markersize=6, label=name)
    for number, (name, value) in enumerate(panel.chance.items()):
        ax.axhline(value, color=_INK, linestyle=_LINES[number % len(_LINES)], linewidth=1.0, label=name)
    ax.set_title(panel.title, fontsize=8, color=_INK)
    ax.set_ylabel(panel.label, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)


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
            share a position.
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
