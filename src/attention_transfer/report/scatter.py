"""A picture of how some scores of several networks go with their accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attention_transfer.errors import InputError
from attention_transfer.report.plots import save

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
    for place, row in enumerate(rows):
        for column, panel in enumerate(row):
            _draw(axes[place, column], names, accuracy, panel)
    for ax in axes[-1]:
        ax.set_xlabel("top-1, %", fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", fontsize=7, frameon=False)
    save(figure, path)


def _draw(ax: Axes, names: Sequence[str], accuracy: Sequence[float], panel: Panel) -> None:
    colours = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    for place, (name, x, y) in enumerate(zip(names, accuracy, panel.values, strict=True)):
        marker = _MARKERS[place // len(colours) % len(_MARKERS)]
        ax.plot(x, y, marker, color=colours[place % len(colours)], markersize=6, label=name)
    for place, (name, value) in enumerate(panel.chance.items()):
        ax.axhline(value, color=_INK, linestyle=_LINES[place % len(_LINES)], linewidth=1.0, label=name)
    ax.set_title(panel.title, fontsize=8, color=_INK)
    ax.set_ylabel(panel.label, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
