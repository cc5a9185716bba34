"""Figure of the graphs between the images of a batch: images on a circle, the strongest edges of each head.

>>> import numpy as np
>>> strongest(np.array([[0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.5, 0.4, 0.1]]), 2).tolist()
[[1, 2], [0, 1]]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from attention_transfer.errors import InputError
from attention_transfer.report.plots import INK, save

_CELL = 2.2  # inches, of this and all that follow
_EDGE = 0.08
_TITLE = 0.2
_SIDE = 0.7  # for the names of rows
_RADIUS = 0.8  # of the circle; half a cell is 1
_SAME, _OTHER = "#1b7f3b", "#c0392b"


def batch_graph_figure(
    images: UInt8[np.ndarray, "n h w 3"],
    labels: Int64[np.ndarray, " n"],
    graphs: Mapping[str, Float[np.ndarray, "a n n"]],
    heads: Sequence[int],
    edges: int,
    path: str | Path,
) -> None:
    """Draw one row per graph and one column per head.

    An edge runs from an image to one that it attends to; the darker and wider, the larger its share, measured by the
    largest one drawn of that head. Green edges stay within a class, red ones leave it. An image's share in itself is
    not drawn.

    Args:
        images: colours 0…255, in the order in which they lie on the circle.
        labels: their classes.
        graphs: by title, shares of each head; rows sum to one.
        heads: which of them are drawn, counted from 0.
        edges: so many of each head, the strongest, at least 1.
        path: where the picture goes; its suffix chooses the format.

    Raises:
        ValueError: there is nothing to draw, no such head, or sizes differ.
    """
    _check(images, labels, graphs, heads, edges)
    size = (_SIDE + len(heads) * _CELL + _EDGE, len(graphs) * (_CELL + _TITLE) + _EDGE)
    figure = Figure(figsize=size)
    for row, (title, graph) in enumerate(graphs.items()):
        bottom = size[1] - (row + 1) * (_CELL + _TITLE)
        middle = (bottom + _CELL / 2) / size[1]
        figure.text(_SIDE / 2 / size[0], middle, title, ha="center", va="center", rotation=90, fontsize=9, color=INK)
        for column, head in enumerate(heads):
            corner_and_size = (
                (_SIDE + column * _CELL) / size[0],
                bottom / size[1],
                _CELL / size[0],
                _CELL / size[1],
            )
            ax = figure.add_axes(corner_and_size, xlim=(-1, 1), ylim=(-1, 1))
            ax.set_axis_off()
            drawn = strongest(graph[head], edges)
            same = labels[drawn[:, 0]] == labels[drawn[:, 1]]
            _draw(ax, images, graph[head], drawn, same)
            ax.set_title(f"head {head + 1}: {same.sum()} of {len(drawn)} in class", fontsize=7, color=INK, pad=2)
    save(figure, path)


def strongest(graph: Float[np.ndarray, "n n"], count: int) -> Int64[np.ndarray, "m 2"]:
    """From where to where the largest shares go, an image's share in itself left out; the largest first.

    Args:
        graph: shares, from row to column.
        count: how many; all there are, if that is fewer.
    """
    shares = graph.astype(np.float64).copy()
    np.fill_diagonal(shares, -np.inf)
    size = len(graph)
    order = np.argsort(-shares, axis=None, kind="stable")[: min(count, size * (size - 1))]
    return np.stack(np.unravel_index(order, graph.shape), axis=1).astype(np.int64)


def _draw(
    ax: Axes,
    images: UInt8[np.ndarray, "n h w 3"],
    graph: Float[np.ndarray, "n n"],
    drawn: Int64[np.ndarray, "m 2"],
    same: Bool[np.ndarray, " m"],
) -> None:
    count = len(images)
    # From the top, clockwise.
    angles = np.pi / 2 - 2 * np.pi * np.arange(count) / count
    positions = _RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    half = min(0.16, 0.7 * np.pi * _RADIUS / count)
    largest = float(graph[tuple(drawn[0])])
    # The weakest first, so that none of them covers a stronger one.
    for (start, end), within in zip(drawn[::-1], same[::-1], strict=True):
        share = float(graph[start, end]) / largest if largest > 0 else 0.0
        # Ends before the picture of the image, so that the arrow's head is seen.
        ax.add_patch(
            FancyArrowPatch(
                tuple(positions[start] * (1 - half / _RADIUS)),
                tuple(positions[end] * (1 - half / _RADIUS)),
                arrowstyle="-|>",
                mutation_scale=5,
                connectionstyle="arc3,rad=0.12",
                color=_SAME if within else _OTHER,
                alpha=0.15 + 0.75 * share,
                linewidth=0.3 + 1.1 * share,
                shrinkA=2,
                shrinkB=2,
            )
        )
    for image, (x, y) in zip(images, positions, strict=True):
        ax.imshow(image, extent=(x - half, x + half, y - half, y + half), interpolation="antialiased", zorder=3)
    # Showing an image sets the limits anew.
    ax.set(xlim=(-1, 1), ylim=(-1, 1))


def _check(
    images: UInt8[np.ndarray, "n h w 3"],
    labels: Int64[np.ndarray, " n"],
    graphs: Mapping[str, Float[np.ndarray, "a n n"]],
    heads: Sequence[int],
    edges: int,
) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or len(images) < 2:
        raise InputError(f"images must be uint8 (n, height, width, 3), n at least 2, not {images.dtype} {images.shape}")
    if not graphs or not heads or edges < 1:
        raise InputError(f"there must be a graph, a head and an edge to draw, not {len(graphs)}, {len(heads)}, {edges}")
    if labels.shape != (len(images),):
        raise InputError(f"there must be one label for each of {len(images)} images, not {labels.shape}")
    for title, graph in graphs.items():
        if graph.ndim != 3 or graph.shape[1:] != (len(images), len(images)):
            raise InputError(f"graph «{title}» must be (heads, {len(images)}, {len(images)}), not {graph.shape}")
        wrong = [head for head in heads if not 0 <= head < len(graph)]
        if wrong:
            raise InputError(f"graph «{title}» has the heads 1 to {len(graph)}; there is no head {wrong[0] + 1}")
