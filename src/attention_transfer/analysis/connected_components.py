"""Connected regions of everything above a threshold, for all thresholds and many images at once."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16, Int64, UInt8
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

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
    first = _places(line[:-1], line[1:], frame)
    end = _places(line[1:], line[:-1], frame)
    region, count = _joined(first, end, stride)
    mask, place = np.divmod(first, frame)
    top, left = np.divmod(place, stride)
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


def _places(before: Int16[np.ndarray, " m"], after: Int16[np.ndarray, " m"], frame: int) -> Int64[np.ndarray, " runs"]:
    """Where the level rises past each threshold: places in the line of all masks, one mask for each threshold of each
    image, ascending. With both arguments exchanged, where it falls.

    Args:
        before: levels in the line of all images.
        after: levels one place further.
        frame: places that an image, or a mask, takes.
    """
    rise = after - before
    rising = np.flatnonzero(rise > 0)
    times = rise[rising].astype(np.int64)
    lowest = np.cumsum(times) - times
    threshold = np.arange(times.sum()) + np.repeat(before[rising] - lowest, times)
    image, place = np.divmod(rising + 1, frame)
    places = np.repeat(image * (NUM_THRESHOLDS * frame) + place, times) + threshold * frame
    places.sort()
    return places


def _joined(
    first: Int64[np.ndarray, " n"], end: Int64[np.ndarray, " n"], stride: int
) -> tuple[Int64[np.ndarray, " n"], int]:
    """The region that each run belongs to, numbered by their first runs, and how many regions there are.

    Args:
        first: place of each run's first pixel in the line of all rows, ascending.
        end: the place after its last pixel.
        stride: places from one row to the next.
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
