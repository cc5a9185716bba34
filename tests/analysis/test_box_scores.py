"""Each score against its definition, written out slowly, and connected regions against a flood fill."""

import numpy as np
import pytest
import torch
from tests.closeness import assert_near
from torch.nn import functional

from attention_transfer.analysis.box_scores import (
    NUM_THRESHOLDS,
    area_share,
    at_image_size,
    box_overlaps,
    energy_inside,
    level_regions,
    max_box_accuracy,
    pointing_game,
)

SIDE = 16


def random_maps(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, side, side)).astype(np.float32)


def random_boxes(count: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Fractional boxes at least a pixel and a half wide and high."""
    draws = np.random.default_rng(seed)
    low = draws.uniform(0, side - 2, (count, 2))
    return np.concatenate([low, draws.uniform(low + 1.5, side)], axis=1).astype(np.float32)


def box_map(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """1 inside the box, 0 outside."""
    perfect = np.zeros((1, SIDE, SIDE), dtype=np.float32)
    perfect[0, top:bottom, left:right] = 1
    return perfect


BOX = (3, 5, 9, 14)
BOXES = np.array([BOX], dtype=np.float32)


def test_a_perfect_map_scores_one_everywhere() -> None:
    perfect = box_map(*BOX)
    assert energy_inside(perfect, BOXES, SIDE, SIDE) == 1
    assert pointing_game(perfect, BOXES) == 1
    overlaps = box_overlaps(perfect, BOXES)
    assert (overlaps.largest == 1).all()
    assert (overlaps.best == 1).all()
    assert max_box_accuracy(overlaps.largest, 0.7) == 1


def test_a_map_beside_the_box_scores_zero() -> None:
    beside = box_map(11, 0, 15, 4)
    assert energy_inside(beside, BOXES, SIDE, SIDE) == 0
    assert pointing_game(beside, BOXES) == 0
    assert not box_overlaps(beside, BOXES).best.any()


@pytest.mark.parametrize("cells", [1, 3, 7, 16])
def test_an_even_map_has_the_energy_and_the_pointing_of_the_boxs_area(cells: int) -> None:
    boxes = random_boxes(20)
    even = np.full((20, cells, cells), 0.3, dtype=np.float32)
    assert energy_inside(even, boxes, SIDE, SIDE) == pytest.approx(area_share(boxes, SIDE, SIDE))
    whole = boxes.round()
    large = at_image_size(even, SIDE, SIDE)
    assert not large.any()
    assert pointing_game(large, whole) == pytest.approx(area_share(whole, SIDE, SIDE))


@pytest.mark.parametrize("cells", [4, 5, 16])
def test_energy_is_the_share_of_mass_on_a_fine_raster(cells: int) -> None:
    """1,600 points per pixel stand for the area; boxes at fortieths of a pixel meet the raster exactly."""
    fine = 40
    boxes = (random_boxes(6) * fine).round() / fine
    maps = random_maps(6, cells) - 0.3  # negative values have no mass
    centres = (np.arange(SIDE * fine) + 0.5) / fine
    cell = (centres * cells / SIDE).astype(int)
    for mass, box in zip(maps.clip(0), boxes, strict=True):
        spread = mass[cell][:, cell]
        left, top, right, bottom = box
        rows, columns = (centres > top) & (centres < bottom), (centres > left) & (centres < right)
        expected = spread[rows][:, columns].sum(dtype=np.float64) / spread.sum(dtype=np.float64)
        assert energy_inside(mass[None], box[None], SIDE, SIDE) == pytest.approx(expected, rel=2e-2 / fine)


def test_a_map_without_mass_counts_as_an_even_one() -> None:
    boxes = random_boxes(2)
    assert energy_inside(np.full((2, 4, 4), -1.0), boxes, SIDE, SIDE) == pytest.approx(area_share(boxes, SIDE, SIDE))


def test_rows_and_columns_are_not_mixed_up() -> None:
    boxes = np.array([[0, 2, 4, 6]], dtype=np.float32)  # of an image of 8 × 16 pixels
    maps = np.zeros((1, 4, 8), dtype=np.float32)
    maps[0, 1, 0] = 1  # covers rows 2…4, columns 0…2
    assert energy_inside(maps, boxes, 8, 16) == 1
    assert area_share(boxes, 8, 16) == 16 / 128
    large = at_image_size(maps, 8, 16)
    assert large.shape == (1, 8, 16)
    assert pointing_game(large, boxes) == 1


def test_the_largest_value_must_lie_in_the_box_with_its_centre() -> None:
    for column, hit in ((2, 0), (3, 1), (8, 1), (9, 0)):
        point = np.zeros((1, SIDE, SIDE), dtype=np.float32)
        point[0, 7, column] = 1
        assert pointing_game(point, BOXES) == hit
    point = box_map(3, 5, 4, 6)
    assert pointing_game(point, np.array([[3.4, 5.4, 9, 14]])) == 1
    assert pointing_game(point, np.array([[3.6, 5.4, 9, 14]])) == 0


def test_several_largest_values_count_by_their_share_in_the_box() -> None:
    several = np.zeros((1, SIDE, SIDE), dtype=np.float32)
    several[0, 7, [0, 4, 5, 15]] = 2
    assert pointing_game(several, BOXES) == 0.5


def slow_overlap(first: list[int], second: list[int]) -> float:
    """The evaluator's convention: both corners belong to the box, so that widths are right − left + 1."""
    pixels = [
        {(x, y) for x in range(left, right + 1) for y in range(top, bottom + 1)}
        for left, top, right, bottom in (first, second)
    ]
    return len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])


def slow_overlaps(values: np.ndarray, box: np.ndarray) -> tuple[list[float], list[float]]:
    """At each of the evaluator's 1,000 thresholds: overlap of the largest region's box, and of the best one's."""
    height, width = values.shape
    levels = (values * np.float32(255)).astype(np.uint8).astype(int)
    left, top, right, bottom = (int(edge) for edge in box)
    truth = [left, top, min(right, width - 1), min(bottom, height - 1)]
    at_level: dict[int, tuple[float, float]] = {}
    largest: list[float] = []
    best: list[float] = []
    for threshold in np.arange(0, 1, 0.001):
        level = int(threshold * levels.max())
        if level not in at_level:
            found: list[tuple[int, float]] = []
            for region in flooded(levels > level):
                rows, columns = [row for row, _ in region], [column for _, column in region]
                # A bounding rectangle (x, y, width, height), whose corner x + width the evaluator takes for a pixel.
                x, y, wide, high = (
                    min(columns),
                    min(rows),
                    max(columns) - min(columns) + 1,
                    max(rows) - min(rows) + 1,
                )
                corners = [x, y, min(x + wide, width - 1), min(y + high, height - 1)]
                found.append((len(region), slow_overlap(corners, truth)))
            size = max((count for count, _ in found), default=0)
            first = next((overlap for count, overlap in found if count == size), 0.0)
            at_level[level] = first, max((overlap for _, overlap in found), default=0.0)
        largest.append(at_level[level][0])
        best.append(at_level[level][1])
    return largest, best


def test_box_accuracy_is_that_of_all_thousand_thresholds() -> None:
    smooth = at_image_size(random_maps(6, 4), SIDE, SIDE)
    rough = at_image_size(random_maps(4, SIDE, seed=1) ** 3, SIDE, SIDE)
    maps, boxes = np.concatenate([smooth, rough]), random_boxes(10)
    found = box_overlaps(maps, boxes)
    slow = [slow_overlaps(values, box) for values, box in zip(maps, boxes, strict=True)]
    for ours, theirs in ((found.largest, [one for one, _ in slow]), (found.best, [best for _, best in slow])):
        expected = np.array(theirs)
        for least in (0.2, 0.3, 0.5, 0.7):
            assert max_box_accuracy(ours, least) == (expected >= least).mean(0).max()
        level = [int(threshold * 255) for threshold in np.arange(0, 1, 0.001)]
        assert ours[:, level] == pytest.approx(expected)


def test_the_thousand_thresholds_of_the_evaluator_are_255() -> None:
    assert sorted({int(threshold * 255) for threshold in np.arange(0, 1, 0.001)}) == list(range(NUM_THRESHOLDS))


def test_overlap_counts_corners_as_pixels() -> None:
    """A region of columns 3…8 and rows 5…13 has the corners (3, 5) and (9, 14), 7 × 10 pixels to the evaluator."""
    inner = box_overlaps(box_map(4, 6, 8, 13), BOXES).largest[0, 0]
    assert inner == pytest.approx((5 * 8) / (7 * 10))
    # At the image's end there is no further pixel.
    boxes = np.array([[10, 10, 16, 16]], dtype=np.float32)
    assert box_overlaps(box_map(12, 12, 16, 16), boxes).largest[0, 0] == pytest.approx((4 * 4) / (6 * 6))


def test_the_largest_region_decides_or_the_best_one() -> None:
    two = box_map(3, 5, 9, 14) + box_map(11, 0, 16, 16)
    overlaps = box_overlaps(two, BOXES)
    assert not overlaps.largest.any()
    assert (overlaps.best == 1).all()


def test_the_first_of_equally_large_regions_decides() -> None:
    boxes = np.array([[0, 0, 2, 2]], dtype=np.float32)
    two = box_map(0, 0, 2, 2) + box_map(8, 8, 10, 10)
    assert (box_overlaps(two, boxes).largest == 1).all()
    assert not box_overlaps(two[:, ::-1, ::-1].copy(), boxes + 12).largest[:, 0].any()


def test_a_flat_map_gives_no_box() -> None:
    assert not box_overlaps(np.zeros((1, SIDE, SIDE), dtype=np.float32), BOXES).best.any()


def test_accuracy_is_taken_at_the_threshold_where_most_images_succeed() -> None:
    overlaps = np.array([[0.9, 0.5, 0.1], [0.1, 0.6, 0.9], [0.0, 0.5, 0.2], [0.6, 0.2, 0.2]])
    assert max_box_accuracy(overlaps, 0.5) == 0.75  # at the second threshold, though each image succeeds somewhere


def test_maps_are_enlarged_bicubically_and_stretched() -> None:
    maps = random_maps(3, 5)
    enlarged = functional.interpolate(torch.from_numpy(maps)[:, None], (SIDE, SIDE), mode="bicubic")[:, 0].double()
    low, high = enlarged.amin((1, 2), keepdim=True), enlarged.amax((1, 2), keepdim=True)
    assert_near(at_image_size(maps, SIDE, SIDE), (enlarged - low) / (high - low), kind=torch.float32)
    assert at_image_size(maps, SIDE, SIDE).max() == 1


def test_larger_maps_are_averaged_over_areas() -> None:
    fine = random_maps(2, 2 * SIDE)
    coarse = fine.reshape(2, SIDE, 2, SIDE, 2).mean((2, 4))
    assert at_image_size(fine, SIDE, SIDE) == pytest.approx(at_image_size(coarse, SIDE, SIDE), abs=1e-5)


def test_maps_that_are_flat_to_rounding_stay_flat() -> None:
    noisy = np.full((1, 4, 4), 0.1, dtype=np.float32)
    noisy[0, 0, 0] = np.nextafter(np.float32(0.1), np.float32(1))
    assert not at_image_size(noisy, SIDE, SIDE).any()


def test_undefined_values_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        at_image_size(np.full((1, 2, 2), np.nan), SIDE, SIDE)


def test_many_images_at_once_score_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, boxes = at_image_size(random_maps(7, 4), SIDE, SIDE), random_boxes(7)
    together = box_overlaps(maps, boxes)
    monkeypatch.setattr("attention_transfer.analysis.box_scores._PIXELS_AT_ONCE", 3 * SIDE * SIDE)
    assert (box_overlaps(maps, boxes).largest == together.largest).all()
    alone = [box_overlaps(maps[i : i + 1], boxes[i : i + 1]).best[0] for i in range(7)]
    assert (together.best == np.stack(alone)).all()


# ---------------------------------------------------------------- connected regions against a flood fill

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
