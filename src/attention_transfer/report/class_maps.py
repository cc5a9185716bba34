"""Figure of class activation maps: one row per image, one column per class, network and epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attention_transfer.errors import InputError
from attention_transfer.report.plots import INK, enlarged, heated, save, stretched

_CELL = 1.3  # inches, of this and all that follow
_TITLE = 0.17
_HEADER = 0.24
_GAP = 0.05
_GROUP_GAP = 0.16
_EDGE = 0.08
_LONGEST_TITLE = 24  # characters that fit above a cell


@dataclass(frozen=True)
class MapColumns:
    """Columns of maps under one header: those of one network, or of one moment.

    Args:
        header: above the first of them.
        maps: for each image, one map per column; any resolution and scale, finite.
        titles: above each map.
        own: whether a map belongs to its image's own class, whose title is then bold; None if unknown.
        binarised: the same maps as shares 0…1 of what lies above a threshold, drawn below them; None draws none.
    """

    header: str
    maps: Float[np.ndarray, "n m r c"]
    titles: Sequence[Sequence[str]]
    own: Bool[np.ndarray, "n m"] | None = None
    binarised: Float[np.ndarray, "n m r c"] | None = None


def class_maps_figure(
    images: UInt8[np.ndarray, "n h w 3"], captions: Sequence[str], groups: Sequence[MapColumns], path: str | Path
) -> None:
    """Draw one row per image: the image itself, then its maps, group by group; binarised maps in a row below.

    Each map is stretched to its own full range, so heat compares positions within one map, not maps with each other.
    Binarised maps are drawn as squares and not stretched.

    Args:
        images: colours 0…255.
        captions: above each image.
        groups: at least one; all with binarised maps, or none.
        path: where the picture goes; its suffix chooses the format.

    Raises:
        ValueError: numbers of images, maps or titles differ, a map is not finite, or there is nothing to draw.
    """
    _check(images, captions, groups)
    count, height, width = images.shape[:3]
    tall, rows = _CELL * height / width, 2 if groups[0].binarised is not None else 1
    step = _TITLE + rows * (tall + _GAP)
    first, *lefts = _left_edges([group.maps.shape[1] for group in groups])
    size = ((lefts[-1][-1] + _CELL + _EDGE), _HEADER + count * step + _EDGE)
    figure = Figure(figsize=size)
    # One pair of axes in inches, from the upper left: hundreds of them would take most of the time.
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0), autoscale_on=False)
    ax.set_axis_off()

    def show(
        image: Float[np.ndarray, "h w 3"], left: float, top: float, title: str = "", *, bold: bool = False
    ) -> None:
        extent = (left, left + _CELL, top + tall, top)
        ax.imshow(image, extent=extent, interpolation="antialiased", aspect="auto")
        if title:
            _write(ax, left + _CELL / 2, top - 0.035, _short(title), bold=bold)

    for group, edges in zip(groups, lefts, strict=True):
        _write(ax, edges[0], 0.7 * _HEADER, group.header, bold=True, header=True)
    for i in range(count):
        large = enlarged(images[i])
        top = _HEADER + i * step + _TITLE
        below = top + tall + _GAP
        show(large, first[0], top, captions[i])
        if rows == 2:
            _write(ax, first[0] + _CELL / 2, below + tall / 2, "binarised")
        for group, edges in zip(groups, lefts, strict=True):
            for j, left in enumerate(edges):
                own = group.own is not None and bool(group.own[i, j])
                show(heated(large, stretched(group.maps[i, j])), left, top, group.titles[i][j], bold=own)
                if group.binarised is not None:
                    show(heated(large, group.binarised[i, j], smooth=False), left, below)
    save(figure, path)


def _left_edges(counts: Sequence[int]) -> list[list[float]]:
    """Left edges, in inches, of the image's column and of each group's columns."""
    edges = [[_EDGE]]
    for count in counts:
        first = edges[-1][-1] + _CELL + _GROUP_GAP
        edges.append([first + j * (_CELL + _GAP) for j in range(count)])
    return edges


def _write(ax: Axes, x: float, y: float, words: str, *, bold: bool = False, header: bool = False) -> None:
    ax.text(
        x,
        y,
        words,
        ha="left" if header else "center",
        fontsize=8 if header else 6.5,
        color=INK,
        fontweight="bold" if bold else "normal",
    )


def _short(title: str) -> str:
    """A title that fits: the end, where a score stands, is kept."""
    if len(title) <= _LONGEST_TITLE:
        return title
    name, _, score = title.rpartition(" ")
    room = _LONGEST_TITLE - len(score) - 2
    return f"{name[:room]}… {score}" if name and room > 0 else f"{title[: _LONGEST_TITLE - 1]}…"


def _check(images: UInt8[np.ndarray, "n h w 3"], captions: Sequence[str], groups: Sequence[MapColumns]) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise InputError(f"images must be uint8 (n, height, width, 3), n at least 1, not {images.dtype} {images.shape}")
    if len(captions) != len(images):
        raise InputError(f"there must be one caption for each of {len(images)} images, not {len(captions)}")
    if not groups or len({group.binarised is None for group in groups}) > 1:
        raise InputError("give at least one group of maps, and binarised ones for all groups or for none")
    for group in groups:
        shape = group.maps.shape
        if group.maps.ndim != 4 or len(group.maps) != len(images) or shape[1] < 1:
            raise InputError(f"maps of «{group.header}» must be ({len(images)}, maps, rows, columns), not {shape}")
        if group.binarised is not None and group.binarised.shape != shape:
            raise InputError(f"binarised maps of «{group.header}» must be {shape}, not {group.binarised.shape}")
        if [len(titles) for titles in group.titles] != [shape[1]] * len(images):
            raise InputError(f"there must be {shape[1]} titles for each image of «{group.header}»")
        if group.own is not None and group.own.shape != shape[:2]:
            raise InputError(f"own of «{group.header}» must be {shape[:2]}, not {group.own.shape}")
        if not np.isfinite(group.maps).all():
            raise InputError(f"maps of «{group.header}» hold values that are not finite")
