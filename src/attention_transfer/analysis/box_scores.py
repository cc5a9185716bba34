"""Pointing game, energy in the box and MaxBoxAcc of maps, and the connected regions behind boxes.

>>> box = np.array([[0, 0, 2, 4]], np.float32)  # left, top, right, bottom: the left half of 4×4 pixels
>>> area_share(box, 4, 4).tolist()
[0.5]
>>> left_quarter = np.array([[[1.0, 0.0, 0.0, 0.0]] * 4])
>>> energy_inside(left_quarter, box, 4, 4).tolist()
[1.0]
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int16, Int64, UInt8
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch.nn import functional

from attention_transfer.errors import InputError

NUM_THRESHOLDS = 255  # 0 … 254: nothing exceeds 255


@dataclass(frozen=True)
class Regions:
    """Regions, in the order of their images, then thresholds, then of each one's first pixel, row by row.

    Args:
        image: number of the image that each lies in.
        threshold: that its pixels exceed.
        size: its pixels.
        left: its first column.
        top: its first row.
        right: the column after its last.
        bottom: the row after its last.
    """

    image: Int64[np.ndarray, " r"]
    threshold: Int64[np.ndarray, " r"]
    size: Int64[np.ndarray, " r"]
    left: Int64[np.ndarray, " r"]
    top: Int64[np.ndarray, " r"]
    right: Int64[np.ndarray, " r"]
    bottom: Int64[np.ndarray, " r"]


def level_regions(levels: UInt8[np.ndarray, "n h w"]) -> Regions:
    """Regions of pixels above each threshold 0 … 254 that touch along an edge or at a corner.

    Looks at runs (pixels side by side in a row) and never at the pixels of each threshold: from one pixel to the next,
    a run begins at as many thresholds as the level rises, and one ends at as many as it falls.
    """
    _, height, width = levels.shape
    # A margin keeps the rows of one image, and images, from touching each other once they lie in one line.
    framed = np.pad(levels.astype(np.int16), ((0, 0), (0, 1), (1, 1)))
    stride, frame = width + 2, (height + 1) * (width + 2)
    line = framed.reshape(-1)
    first = _crossings(line[:-1], line[1:], frame)
    end = _crossings(line[1:], line[:-1], frame)
    region, count = _joined(first, end, stride)
    mask, pixel = np.divmod(first, frame)
    top, left = np.divmod(pixel, stride)
    length = end - first
    found = {name: np.zeros(count, dtype=np.int64) for name in ("mask", "size", "right", "bottom")}
    found |= {"left": np.full(count, width), "top": np.full(count, height)}
    found["mask"][region] = mask
    np.add.at(found["size"], region, length)
    np.minimum.at(found["left"], region, left - 1)
    np.minimum.at(found["top"], region, top)
    np.maximum.at(found["right"], region, left - 1 + length)
    np.maximum.at(found["bottom"], region, top + 1)
    image, threshold = np.divmod(found.pop("mask"), NUM_THRESHOLDS)
    return Regions(image, threshold, **found)


def _crossings(
    before: Int16[np.ndarray, " m"], after: Int16[np.ndarray, " m"], frame: int
) -> Int64[np.ndarray, " runs"]:
    """Positions at which the level rises past each threshold, ascending; with both arguments exchanged, it falls.

    Positions are those in the line of all masks, one mask for each threshold of each image.

    Args:
        before: levels in the line of all images.
        after: levels one position further.
        frame: positions of an image, or a mask.
    """
    rise = after - before
    rising = np.flatnonzero(rise > 0)
    times = rise[rising].astype(np.int64)
    lowest = np.cumsum(times) - times
    threshold = np.arange(times.sum()) + np.repeat(before[rising] - lowest, times)
    image, pixel = np.divmod(rising + 1, frame)
    positions = np.repeat(image * (NUM_THRESHOLDS * frame) + pixel, times) + threshold * frame
    positions.sort()
    return positions


def _joined(
    first: Int64[np.ndarray, " n"], end: Int64[np.ndarray, " n"], stride: int
) -> tuple[Int64[np.ndarray, " n"], int]:
    """The region that each run belongs to, numbered by their first runs, and how many regions there are.

    Args:
        first: position of each run's first pixel in the line of all rows, ascending.
        end: the position after its last pixel.
        stride: positions from one row to the next.
    """
    # Runs of the next row that touch, corners included: those that end no earlier and begin no later than this one.
    lowest = np.searchsorted(end, first + stride, side="left")
    highest = np.searchsorted(first, end + stride, side="right")
    touching = highest - lowest
    above = np.repeat(np.arange(len(first)), touching)
    begins = np.cumsum(touching) - touching
    below = np.arange(len(above)) - np.repeat(begins - lowest, touching)
    graph = coo_matrix((np.ones(len(above), dtype=np.int8), (above, below)), shape=(len(first), len(first)))
    num_regions, region = connected_components(graph, directed=False)
    return region.astype(np.int64), int(num_regions)


OVERLAPS = (0.3, 0.5, 0.7)

_FLAT = 1e-6  # a map that varies by less than this share of its largest magnitude is noise of rounding
_PIXELS_AT_ONCE = 1 << 14  # noise has 60 runs per pixel, which take 100 bytes each


def area_share(boxes: Float[np.ndarray, "n 4"], height: int, width: int) -> Float[np.ndarray, " n"]:
    """Share of the image that each box covers: the energy inside it, and the chance to point at it, of an even map."""
    left, top, right, bottom = boxes.astype(np.float64).T
    return (right - left) * (bottom - top) / (height * width)


def energy_inside(
    maps: Float[np.ndarray, "n r c"], boxes: Float[np.ndarray, "n 4"], height: int, width: int
) -> Float[np.ndarray, " n"]:
    """Share of each map's mass that lies in the box, between 0 and 1.

    The energy-based pointing game of Wang et al. (Score-CAM, CVPR workshops 2020, arXiv:1910.01279).

    Args:
        maps: at their own resolution. What is negative, evidence against a class, has no mass.
        boxes: in pixels of the image, fractions allowed.
        height: height of the image, in pixels.
        width: width of the image, in pixels.

    Returns:
        Shares; of a map without any mass, that of an even map.

    Departs from the paper: the mass of each cell lies evenly over its area, of which the exact share within the box
    counts; there, maps are interpolated to the image first and boxes are whole pixels.
    """
    mass = np.clip(maps.astype(np.float64), 0, None)
    left, top, right, bottom = boxes.astype(np.float64).T
    rows = _covered(top, bottom, mass.shape[1], height)
    columns = _covered(left, right, mass.shape[2], width)
    inside = np.einsum("nrc,nr,nc->n", mass, rows, columns, optimize=True)
    total = mass.sum((1, 2))
    empty = total == 0
    return np.where(empty, area_share(boxes, height, width), inside / np.where(empty, 1, total))


def at_image_size(maps: Float[np.ndarray, "n r c"], height: int, width: int) -> Float[np.ndarray, "n h w"]:
    """Maps of the image's size between 0 and 1: bicubic interpolation, then each stretched to its full range.

    What is larger than the image is averaged over areas. Maps that are flat to rounding become zeros.

    Raises:
        ValueError: a map holds values that are not finite.
    """
    if not np.isfinite(maps).all():
        raise InputError("a map holds values that are not finite: the network gives infinite or undefined values")
    lowest, highest = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    flat = highest - lowest <= _FLAT * np.maximum(abs(lowest), abs(highest))
    values = torch.from_numpy(maps.astype(np.float32))[:, None]
    fewer = (min(height, maps.shape[1]), min(width, maps.shape[2]))
    if values.shape[2:] != fewer:
        values = functional.interpolate(values, fewer, mode="area")
    if fewer != (height, width):
        values = functional.interpolate(values, (height, width), mode="bicubic", align_corners=False)
    values -= values.amin((2, 3), keepdim=True)
    values /= values.amax((2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return np.where(flat, np.float32(0), values[:, 0].numpy())


def pointing_game(maps: Float[np.ndarray, "n h w"], boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """Whether the largest value of each map lies in the box: 1 or 0, or between them where several are largest.

    The pointing game of Zhang et al. (ECCV 2016, arXiv:1608.00507), with tolerance 0: a pixel lies in the box if its
    centre does. Of several largest values, one drawn evenly would count: the result is the share of them in the box.

    Args:
        maps: at the image's size.
        boxes: in its pixels.

    Departs from the paper: points up to 15 pixels outside the object count there.
    """
    left, top, right, bottom = (edge[:, None] for edge in boxes.T)
    rows, columns = np.arange(maps.shape[1]) + 0.5, np.arange(maps.shape[2]) + 0.5
    inside = ((top <= rows) & (rows < bottom))[:, :, None] & ((left <= columns) & (columns < right))[:, None, :]
    largest = maps == maps.max((1, 2), keepdims=True)
    return (largest & inside).sum((1, 2)) / largest.sum((1, 2))


@dataclass(frozen=True)
class Overlaps:
    """Intersection over union of the true box with boxes around what exceeds a threshold; one column per threshold.

    Args:
        largest: IoU of the largest connected region.
        best: IoU of the region that fits best.
    """

    largest: Float[np.ndarray, "n 255"]
    best: Float[np.ndarray, "n 255"]


def box_overlaps(maps: Float[np.ndarray, "n h w"], boxes: Float[np.ndarray, "n 4"]) -> Overlaps:
    """Intersection over union of the true box with boxes around the strong parts of each map, at every threshold.

    The evaluation of Choe et al. (CVPR 2020, arXiv:2001.07437), as its public code computes it: maps are cut to whole
    levels 0 … 255, and what lies strictly above a threshold is divided into regions that touch along edges or corners,
    each with its bounding box. The code's 1,000 thresholds t = 0, 0.001 … 0.999 are compared as the whole part of
    255·t, which takes the values 0 … 254 and no others: those are the columns of the result. Corners count as pixels of
    a box, up to the image's last: the box of a region reaches one pixel further right and down than the region, a true
    box is cut to whole pixels and reaches one further too, and widths are right − left + 1.

    Args:
        maps: at the image's size, between 0 and 1.
        boxes: in its pixels.

    Returns:
        Overlaps between 0 and 1; 0 where nothing exceeds a threshold, as in a map of zeros.

    Departs from the code: the largest region is the one with most pixels, the first of equals; there, the one whose
    outline encloses most. An empty map has no box; there, it has the one of the corner pixel.
    """
    count, height, width = maps.shape
    levels: UInt8[np.ndarray, "n h w"] = (maps.astype(np.float32) * np.float32(255)).astype(np.uint8)
    left, top, right, bottom = boxes.T.astype(np.int64)
    truth = _corners(left, top, right, bottom, height, width)
    largest, best = (np.zeros((count, NUM_THRESHOLDS)) for _ in range(2))
    together = max(1, _PIXELS_AT_ONCE // (height * width))
    for start in range(0, count, together):
        some = slice(start, start + together)
        regions = level_regions(levels[some])
        found = _corners(regions.left, regions.top, regions.right, regions.bottom, height, width)
        overlap = _overlap(found, truth[:, some][:, regions.image])
        at = regions.image, regions.threshold
        np.maximum.at(best[some], at, overlap)
        first = _largest(regions, len(levels[some]))
        largest[some][regions.image[first], regions.threshold[first]] = overlap[first]
    return Overlaps(largest, best)


def max_box_accuracy(overlaps: Float[np.ndarray, "n t"], least: float) -> float:
    """Share of images whose IoU is at least `least`, at the threshold where most are: MaxBoxAcc.

    Choe et al. (CVPR 2020, arXiv:2001.07437).
    """
    return float((overlaps >= least).mean(0).max())


def _covered(
    low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"], cells: int, length: int
) -> Float[np.ndarray, "n cells"]:
    """Share of each cell's extent that lies between two edges."""
    edges = np.arange(cells + 1) * (length / cells)
    shared = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
    return np.clip(shared, 0, None) * (cells / length)


def _corners(
    left: Int64[np.ndarray, " k"],
    top: Int64[np.ndarray, " k"],
    right: Int64[np.ndarray, " k"],
    bottom: Int64[np.ndarray, " k"],
    height: int,
    width: int,
) -> Int64[np.ndarray, "4 k"]:
    """The evaluator's corners of half-open boxes: the pixel after the last one, unless the image ends before."""
    return np.stack([left, top, np.minimum(right, width - 1), np.minimum(bottom, height - 1)])


def _overlap(first: Int64[np.ndarray, "4 k"], second: Int64[np.ndarray, "4 k"]) -> Float[np.ndarray, " k"]:
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    shared = np.clip(high - low + 1, 0, None).prod(0)
    return shared / ((first[2:] - first[:2] + 1).prod(0) + (second[2:] - second[:2] + 1).prod(0) - shared)


def _largest(regions: Regions, num_images: int) -> Int64[np.ndarray, " k"]:
    """The first of the largest regions at each threshold of each image where there are any."""
    mask = regions.image * NUM_THRESHOLDS + regions.threshold
    size = np.zeros(num_images * NUM_THRESHOLDS, dtype=np.int64)
    np.maximum.at(size, mask, regions.size)
    largest = np.flatnonzero(regions.size == size[mask])
    return largest[np.unique(mask[largest], return_index=True)[1]]
