"""Connected regions against a flood fill."""

import numpy as np
import pytest

from attention_transfer.analysis.box_scores import level_regions

Region = tuple[int, int, int, int, int, int]  # mask, size, left, top, right, bottom


def flooded(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Pixels (row, column) of each region that touches along edges or corners, in the order of their first pixels."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    regions: list[list[tuple[int, int]]] = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        region, front = [start], [start]
        while front:
            row, column = front.pop()
            for near in [(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    region.append(near)
                    front.append(near)
        regions.append(region)
    return regions


def expected(masks: np.ndarray) -> list[Region]:
    found: list[Region] = []
    for number, mask in enumerate(masks):
        for region in flooded(mask):
            rows, columns = [row for row, _ in region], [column for _, column in region]
            found.append((number, len(region), min(columns), min(rows), max(columns) + 1, max(rows) + 1))
    return found


def regions(masks: np.ndarray) -> list[Region]:
    found = level_regions(masks.astype(np.uint8))
    assert not found.threshold.any()
    columns = (found.image, found.size, found.left, found.top, found.right, found.bottom)
    return [tuple(row) for row in np.stack(columns, axis=1).tolist()]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.95])
def test_regions_are_those_of_a_flood_fill(share: float) -> None:
    masks = np.random.default_rng(int(100 * share)).random((30, 7, 9)) < share
    assert regions(masks) == expected(masks)


def test_pixels_at_the_ends_of_rows_and_masks_do_not_touch() -> None:
    masks = np.zeros((2, 3, 4), dtype=bool)
    masks[0, 0, 3] = masks[0, 1, 0] = masks[0, 2, :] = masks[1, 0, :] = True
    assert regions(masks) == [(0, 1, 3, 0, 4, 1), (0, 5, 0, 1, 4, 3), (1, 4, 0, 0, 4, 1)]


def test_corners_touch() -> None:
    assert regions(np.eye(4, dtype=bool)[None]) == [(0, 4, 0, 0, 4, 4)]
    assert regions(np.eye(4, dtype=bool)[None, ::-1]) == [(0, 4, 0, 0, 4, 4)]


def test_empty_masks_have_no_region() -> None:
    masks = np.zeros((3, 4, 5), dtype=bool)
    assert regions(masks) == []
    masks[1] = True
    assert regions(masks) == [(1, 20, 0, 0, 5, 4)]


def test_every_threshold_has_the_regions_of_what_exceeds_it() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (3, 5, 6), dtype=np.uint8)
    levels[0, 0, :2] = 0, 255
    found = level_regions(levels)
    columns = (found.size, found.left, found.top, found.right, found.bottom)
    rows = [tuple(row) for row in np.stack(columns, axis=1).tolist()]
    place = 0
    for image, level in enumerate(levels):
        for threshold in range(255):
            for _, *region in expected((level > threshold)[None]):
                assert (found.image[place], found.threshold[place]) == (image, threshold)
                assert rows[place] == tuple(region)
                place += 1
    assert place == len(rows)
