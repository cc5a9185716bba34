"""Attention links as heat maps: stages of the teacher by layers of the student."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attention_transfer.errors import InputError
from attention_transfer.report.plots import INK, save
from attention_transfer.report.table import DASH, markdown_table

_CELL = 0.24  # inches
_EDGE = (0.75, 0.9)
_KEPT = "#00e5ff"


def link_maps_figure(
    magnitudes: Mapping[str, Float[np.ndarray, "s l"]],
    path: str | Path,
    kept: Bool[np.ndarray, "s l"] | None = None,
) -> None:
    """Draw one heat map for each run or moment, side by side, on one scale of colours.

    As Figures 2 and B of Jin & Choi (arXiv:2211.13852): layers from left to right, stages from below.

    Args:
        magnitudes: mean |w| between each stage and layer, by title; NaN where there are no links.
        path: where the picture goes; its suffix chooses the format.
        kept: links that an extraction keeps, which get a frame; of the only map.

    Raises:
        ValueError: nothing is to be drawn.
    """
    if not magnitudes:
        raise InputError("there are no links to draw")
    shapes = [each.shape for each in magnitudes.values()]
    widths = [max(columns * _CELL, 1.2) for _, columns in shapes]
    height = max(max(rows for rows, _ in shapes) * _CELL, 1.0)
    figure = Figure(figsize=(sum(widths) + _EDGE[0] * len(widths) + 0.6, height + _EDGE[1]), layout="constrained")
    axes = figure.subplots(1, len(shapes), squeeze=False, width_ratios=widths)[0]
    highest = max(float(np.nanmax(each)) for each in magnitudes.values())
    image = None
    for ax, (title, values) in zip(axes, magnitudes.items(), strict=True):
        rows, columns = values.shape
        image = ax.imshow(values, cmap="viridis", vmin=0, vmax=highest, origin="lower", aspect="auto")
        ax.set_facecolor("#dddddd")
        ax.set_title(title, fontsize=8, color=INK)
        ax.set_xticks(range(columns), [str(layer + 1) for layer in range(columns)], fontsize=6)
        ax.set_yticks(range(rows), [str(stage + 1) for stage in range(rows)], fontsize=6)
        ax.set_xlabel("layer of the student", fontsize=7)
        ax.set_ylabel("stage of the teacher", fontsize=7)
        if kept is not None:
            for stage, layer in zip(*np.nonzero(kept), strict=True):
                corner = (float(layer) - 0.42, float(stage) - 0.42)
                ax.add_patch(Rectangle(corner, 0.84, 0.84, fill=False, edgecolor=_KEPT, linewidth=1.2))
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes), fraction=0.04, pad=0.02)
    bar.set_label("mean |w|", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    save(figure, path)


def link_table(magnitudes: Float[np.ndarray, "s l"], kept: Bool[np.ndarray, "s l"] | None = None) -> str:
    """Mean |w| between each stage and layer as text; what an extraction keeps is bold.

    Args:
        magnitudes: NaN where there are no links.
        kept: None marks nothing.
    """
    header = ["stage", *(f"layer {layer + 1}" for layer in range(magnitudes.shape[1]))]
    rows: list[Sequence[str]] = []
    for stage, row in enumerate(magnitudes):
        cells = [DASH if np.isnan(value) else f"{value:.4f}" for value in row]
        if kept is not None:
            cells = [f"**{cell}**" if stays else cell for cell, stays in zip(cells, kept[stage], strict=True)]
        rows.append([str(stage + 1), *cells])
    return "\n".join(markdown_table(header, rows))
