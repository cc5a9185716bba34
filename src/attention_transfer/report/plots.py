"""Figures of attention maps and of loss curves, drawn without a display and written whole.

>>> import numpy as np
>>> stretched(np.array([[1.0, 2.0], [3.0, 5.0]])).tolist()
[[0.0, 0.25], [0.5, 1.0]]
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from attention_transfer.errors import InputError
from attention_transfer.report.groups import MeasuredRun, grouped
from attention_transfer.runs import RecordedRun, make_folder, whole_file

_DPI = 160


def check_picture(path: str | Path | None) -> None:
    """Refuse a file that no picture can be written into.

    Args:
        path: of the file; None where nothing is to be drawn.

    Raises:
        ValueError: its suffix is that of no format, or a folder has its name.
    """
    if path is None:
        return
    known = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        formats = ", ".join(sorted(known))
        raise InputError(
            f"the format of the picture {str(path)!r} is not known: let its name end as figure.png does, with one of "
            f"{formats}"
        )
    if Path(path).is_dir():
        raise InputError(f"{str(path)!r} is a folder, where the file of a picture belongs: name a file in it")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure whole, on white; its folder is made.

    Args:
        figure: to be written.
        path: its suffix chooses the format.

    Raises:
        ValueError: as `check_picture` says, or nothing can be written there.
    """
    check_picture(path)
    make_folder(Path(path).parent)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, facecolor="white")


_CELL_INCHES = 1.5
_CELL_PIXELS = 240
INK = "#222222"
_BOX = "#00e5ff"


def attention_figure(
    images: UInt8[np.ndarray, "n h w 3"],
    maps: Mapping[str, Float[np.ndarray, "n r c"]],
    boxes: Float[np.ndarray, "n 4"] | None,
    path: str | Path,
) -> None:
    """Draw one row per image: the image itself, then one heat map over it for each set of maps.

    Each map is stretched to its own full range, so heat compares positions within one map, not maps with each other.

    Args:
        images: colours 0…255.
        maps: by column title; any resolution, any scale, finite.
        boxes: left, top, right, bottom in pixels of the image, right and bottom exclusive; None draws none.
        path: where the picture goes; its suffix chooses the format.

    Raises:
        ValueError: numbers of images, maps or boxes differ, a map is not finite, or there is nothing to draw.
    """
    count, height, width = _check(images, maps, boxes)
    titles = ["image", *maps]
    figure = Figure(
        figsize=(_CELL_INCHES * len(titles), _CELL_INCHES * height / width * count + 0.3),
        layout=ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0),
    )
    axes = figure.subplots(count, len(titles), squeeze=False)
    for row in range(count):
        large = enlarged(images[row])
        for column, title in enumerate(titles):
            ax: Axes = axes[row, column]
            shown = large if column == 0 else heated(large, stretched(maps[title][row]))
            ax.imshow(shown, extent=(0, width, height, 0), interpolation="antialiased")
            ax.set_axis_off()
            if row == 0:
                ax.set_title(title, fontsize=8, color=INK, pad=4)
            if boxes is not None:
                _draw_box(ax, boxes[row])
    save(figure, path)


def curves_figure(runs: Iterable[RecordedRun], path: str | Path) -> None:
    """Draw cross-entropy over epochs: of training images left, of held-out images right.

    One colour per group of runs that differ only in their seed, one thin line per run, a thick one for their mean;
    dotted lines are frozen teachers. Held-out images are those of validation where every run has some, else of test.
    Training losses are those of the student in training mode on augmented images.

    Args:
        runs: finished or not, with at least one epoch among them.
        path: where the picture goes; its suffix chooses the format.

    Raises:
        ValueError: no run has an epoch yet.
    """
    groups = {
        name: [run for run in members if run.rows]
        for name, members in grouped(MeasuredRun.read(run) for run in runs).items()
    }
    groups = {name: members for name, members in groups.items() if members}
    if not groups:
        raise InputError("there is nothing to draw: no run has finished its first epoch")
    everyone = [run for members in groups.values() for run in members]
    held_out = "validation" if all(run.series("validation", "loss") for run in everyone) else "test"
    figure = Figure(figsize=(8.0, 3.7), layout="constrained")
    for ax, split in zip(figure.subplots(1, 2), ("train", held_out), strict=True):
        for number, (name, members) in enumerate(groups.items()):
            _draw_curves(ax, f"C{number % 10}", name, [run.series(split, "loss") for run in members])
        for loss, name in sorted({item for run in everyone for item in _teacher_loss(run, split)}):
            ax.axhline(loss, color=INK, linestyle=":", linewidth=1.2, label=f"teacher {name}")
        ax.set_title(f"{split} images", fontsize=9, color=INK)
        ax.set_xlabel("epoch", fontsize=8)
        ax.set_ylabel("cross-entropy", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.25, linewidth=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    # Below both, where it covers no curve.
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    save(figure, path)


def enlarged(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h2 w2 3"]:
    """The image in 0…1 at the resolution of the picture, so that heat over a tiny image is smooth."""
    height, width = image.shape[:2]
    factor = max(1.0, _CELL_PIXELS / min(height, width))
    size = (round(width * factor), round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255


def stretched(values: Float[np.ndarray, "r c"]) -> Float[np.ndarray, "r c"]:
    """A map brought to its own full range 0…1; zeros where it is the same everywhere."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) / (high - low) if high > low else np.zeros_like(values)).astype(np.float32)


def heated(
    image: Float[np.ndarray, "h w 3"], heat: Float[np.ndarray, "r c"], *, smooth: bool = True
) -> Float[np.ndarray, "h w 3"]:
    """Heat over the grey image: clear where it is low, opaque where it is high.

    Args:
        image: in 0…1.
        heat: in 0…1, any resolution.
        smooth: whether it runs from one of its positions to the next, or shows them as squares.
    """
    size = (image.shape[1], image.shape[0])
    way = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    heat = np.clip(np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, way)), 0, 1)
    grey = np.repeat(image @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32), 3, axis=2)
    opacity = (0.3 + 0.5 * heat)[..., None]
    colours = matplotlib.colormaps["inferno"](heat)[..., :3].astype(np.float32)
    return np.clip((1 - opacity) * grey + opacity * colours, 0, 1)


def _check(
    images: UInt8[np.ndarray, "n h w 3"],
    maps: Mapping[str, Float[np.ndarray, "n r c"]],
    boxes: Float[np.ndarray, "n 4"] | None,
) -> tuple[int, int, int]:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise InputError(f"images must be uint8 (n, height, width, 3), n at least 1, not {images.dtype} {images.shape}")
    for title, values in maps.items():
        if values.ndim != 3 or len(values) != len(images):
            raise InputError(f"maps «{title}» must be ({len(images)}, rows, columns), not {values.shape}")
        if not np.isfinite(values).all():
            raise InputError(f"maps «{title}» hold values that are not finite")
    if boxes is not None and boxes.shape != (len(images), 4):
        raise InputError(f"boxes must be ({len(images)}, 4), not {boxes.shape}")
    return images.shape[0], images.shape[1], images.shape[2]


def _draw_box(ax: Axes, box: Float[np.ndarray, "4"]) -> None:
    left, top, right, bottom = (float(edge) for edge in box)
    ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=_BOX, linewidth=1.1))


def _draw_curves(ax: Axes, colour: str, name: str, curves: list[dict[int, float]]) -> None:
    for curve in curves:
        ax.plot(list(curve), list(curve.values()), color=colour, alpha=0.35, linewidth=0.8)
    shared = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)]
    means = [float(np.mean([curve[epoch] for curve in curves])) for epoch in shared]
    ax.plot(shared, means, color=colour, linewidth=1.8, label=name, marker="o" if len(shared) == 1 else None)


def _teacher_loss(run: MeasuredRun, split: str) -> list[tuple[float, str]]:
    loss = (((run.summary or {}).get("teacher") or {}).get(split) or {}).get("loss")
    return [] if loss is None else [(float(loss), str(run.experiment.get("teacher")))]
