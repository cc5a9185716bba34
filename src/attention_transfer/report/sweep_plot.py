"""Plot of a sweep: test top-1 over a swept setting, with error bars over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from attention_transfer.report.plots import save
from attention_transfer.report.sweep import DASH, Row, SweepTable

# Numbers further apart than this are drawn on a logarithmic axis.
_LINEAR_SPAN = 20.0
_MARGIN = 0.05


def sweep_figure(table: SweepTable, path: str | Path) -> None:
    """Draw a sweep into a file, as `draw_sweep` says.

    Args:
        table: with at least one row.
        path: where the picture goes; its suffix chooses the format.
    """
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    draw_sweep(figure.subplots(), table)
    save(figure, path)


def draw_sweep(ax: Axes, table: SweepTable) -> None:
    """Draw test top-1 over the first field whose values are numbers, one line for each value of the others.

    Numbers more than 20-fold apart get a logarithmic axis, linear around a zero. A row without that field, such as the
    student alone, is a dotted line across. Where no field is numeric, there are bars. Whiskers are the sample standard
    deviation over seeds.

    Args:
        ax: empty.
        table: with at least one row.
    """
    rows = [row for row in table.rows if row.last_epoch is not None]
    varying = [name for name in table.fields if len({row.values.get(name) for row in table.rows}) > 1]
    numeric = [name for name in varying if _numbers(rows, name)]
    x = (numeric or varying or [""])[0]
    others = [name for name in varying if name != x]
    series: dict[str, list[Row]] = {}
    for row in rows:
        label = ", ".join(f"{name}={row.values[name]}" for name in others if name in row.values)
        series.setdefault(label, []).append(row)
    if numeric:
        _draw_lines(ax, x, series)
        _scale(ax, x, rows)
    else:
        _draw_bars(ax, x, series)
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel("test top-1 after the last epoch, %", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(axis="y", alpha=0.25, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[1]:
        # Above the axes, where it hides nothing.
        ax.legend(fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3)


def _numbers(rows: Sequence[Row], name: str) -> list[float]:
    """The values of a field, if all that there are are numbers and differ."""
    try:
        found = sorted({float(row.values[name]) for row in rows if name in row.values})
    except ValueError:
        return []
    return found if len(found) > 1 else []


def _draw_lines(ax: Axes, x: str, series: Mapping[str, Sequence[Row]]) -> None:
    for number, (label, rows) in enumerate(series.items()):
        points = sorted(((float(row.values[x]), row) for row in rows if x in row.values), key=lambda point: point[0])
        colour = f"C{number % 10}"
        if points:
            heights = [row.last_epoch.mean for _, row in points if row.last_epoch]
            ax.errorbar(
                [at for at, _ in points],
                heights,
                yerr=[_whisker(row) for _, row in points],
                color=colour,
                marker="o",
                markersize=4,
                linewidth=1.4,
                capsize=3,
                label=label or None,
            )
        for row in (row for row in rows if x not in row.values and row.last_epoch):
            assert row.last_epoch is not None
            across = ", ".join(f"{name}={value}" for name, value in row.values.items()) or "without"
            ax.axhline(row.last_epoch.mean, color=colour, linestyle=":", linewidth=1.4, label=across)
            low, high = row.last_epoch.mean - _whisker(row), row.last_epoch.mean + _whisker(row)
            ax.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)


def _scale(ax: Axes, x: str, rows: Sequence[Row]) -> None:
    numbers = _numbers(rows, x)
    positive = [number for number in numbers if number > 0]
    if positive and positive[-1] > _LINEAR_SPAN * positive[0]:
        if len(positive) == len(numbers):
            ax.set_xscale("log")
        else:
            ax.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
    ax.set_xticks(numbers, [f"{number:g}" for number in numbers])
    ax.xaxis.set_minor_locator(NullLocator())
    # Margins of its own: matplotlib's are the whole linear part of an axis that is linear around zero.
    scale = ax.xaxis.get_transform()
    low, high = (float(end) for end in scale.transform([numbers[0], numbers[-1]]))
    margin = _MARGIN * (high - low)
    left, right = (float(end) for end in scale.inverted().transform([low - margin, high + margin]))
    ax.set_xlim(left, right)


def _draw_bars(ax: Axes, x: str, series: Mapping[str, Sequence[Row]]) -> None:
    positions = list(dict.fromkeys(row.values.get(x, DASH) for rows in series.values() for row in rows))
    width = 0.8 / max(1, len(series))
    for number, (label, rows) in enumerate(series.items()):
        shift = (number - (len(series) - 1) / 2) * width
        bars = ax.bar(
            [positions.index(row.values.get(x, DASH)) + shift for row in rows],
            [row.last_epoch.mean for row in rows if row.last_epoch],
            width * 0.92,
            yerr=[_whisker(row) for row in rows],
            capsize=3,
            color=f"C{number % 10}",
            label=label or None,
        )
        ax.bar_label(bars, fmt="%.1f", fontsize=6, padding=2)
    ax.set_xticks(range(len(positions)), positions)


def _whisker(row: Row) -> float:
    return (row.last_epoch.std or 0.0) if row.last_epoch else 0.0
