"""Pictures of class maps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_transfer.report.class_maps import MapColumns, class_maps_figure

GREY = np.full((2, 32, 32, 3), 128, dtype=np.uint8)


def lit(position: tuple[int, int], size: int = 4, level: float = 1.0) -> np.ndarray:
    """A map of zeros but for one place."""
    values = np.zeros((size, size))
    values[position] = level
    return values


def group(*maps: np.ndarray, binarised: bool = False, header: str = "network") -> MapColumns:
    """The same maps for both grey images."""
    values = np.stack([np.stack(maps)] * 2)
    titles = [[f"class {j} 0.5" for j in range(len(maps))]] * 2
    return MapColumns(header, values, titles, None, (values > 0).astype(float) if binarised else None)


def bright(path: Path) -> np.ndarray:
    """Where a picture is as light as the hottest colour is over grey; paper is left out."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return (pixels[..., 0] > 200) & (pixels[..., 2] < 190)


def blobs(mask: np.ndarray, axis: int) -> int:
    """How many separate stretches of rows (axis 1) or columns (axis 0) hold something."""
    line = np.concatenate([[False], mask.any(axis=axis)]).astype(int)
    return int((np.diff(line) == 1).sum())


def test_every_image_has_a_row_and_every_map_a_column(tmp_path: Path) -> None:
    class_maps_figure(GREY, ["a", "b"], [group(lit((1, 1)), lit((1, 1))), group(lit((1, 1)))], tmp_path / "maps.png")
    mask = bright(tmp_path / "maps.png")
    assert (blobs(mask, 1), blobs(mask, 0)) == (2, 3)


def test_binarised_maps_lie_below_and_are_squares(tmp_path: Path) -> None:
    class_maps_figure(GREY, ["a", "b"], [group(lit((1, 2)), binarised=True)], tmp_path / "both.png")
    mask = bright(tmp_path / "both.png")
    assert (blobs(mask, 1), blobs(mask, 0)) == (4, 1)
    rows = np.flatnonzero(np.diff(np.concatenate([[0], mask.any(axis=1), [0]])))
    square = mask[rows[2] : rows[3]]
    height, width = square.shape[0], int(square.any(axis=0).sum())
    assert height == pytest.approx(width, abs=2)
    assert square[:, square.any(axis=0)].mean() > 0.97  # a blurred one would be round


def test_heat_lies_where_the_map_is_high_whatever_its_scale(tmp_path: Path) -> None:
    class_maps_figure(GREY, ["a", "b"], [group(lit((0, 0), level=1e-6), lit((3, 3), level=1e6))], tmp_path / "maps.png")
    rows, columns = np.nonzero(bright(tmp_path / "maps.png"))
    first = columns < columns.mean()
    assert rows[~first].min() > rows[first].min() + 40


def test_a_share_is_drawn_weaker_than_the_whole(tmp_path: Path) -> None:
    whole = group(lit((1, 1)), binarised=True)
    half = replace(whole, binarised=whole.binarised / 2)
    for name, columns in (("whole", whole), ("half", half)):
        class_maps_figure(GREY, ["a", "b"], [columns], tmp_path / f"{name}.png")
    assert blobs(bright(tmp_path / "whole.png"), 1) == 4
    assert blobs(bright(tmp_path / "half.png"), 1) == 2


def test_titles_are_written_and_an_images_own_class_is_bold(tmp_path: Path) -> None:
    columns = replace(
        group(lit((0, 0)), lit((1, 1)), header="resnet"),
        titles=[["maple 0.9", "oak 0.1"], ["oak 0.6", "a_very_long_name_of_a_class 0.4"]],
        own=np.array([[True, False], [False, False]]),
    )
    class_maps_figure(GREY, ["maple #3", "oak #4"], [columns], tmp_path / "maps.svg")
    text = (tmp_path / "maps.svg").read_text()
    for words in ("resnet", "maple #3", "oak #4", "maple 0.9", "oak 0.6", "a_very_long_name_of… 0.4"):
        assert f"<!-- {words} -->" in text
    plain = replace(columns, own=None)
    class_maps_figure(GREY, ["maple #3", "oak #4"], [plain], tmp_path / "plain.svg")
    # Outlines of bold letters are in the file only where something is bold; the header always is.
    assert text.count("DejaVuSans-Bold") > (tmp_path / "plain.svg").read_text().count("DejaVuSans-Bold")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"maps": np.zeros((3, 1, 4, 4))}, r"maps of «network» must be \(2, maps, rows, columns\)"),
        ({"maps": np.full((2, 1, 4, 4), np.nan)}, "not finite"),
        ({"titles": [["a"], []]}, "there must be 1 titles for each image"),
        ({"own": np.zeros((2, 2), dtype=bool)}, r"own of «network» must be \(2, 1\)"),
        ({"binarised": np.zeros((2, 1, 2, 2))}, r"binarised maps of «network» must be \(2, 1, 4, 4\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        class_maps_figure(GREY, ["a", "b"], [replace(group(lit((0, 0))), **change)], tmp_path / "no.png")
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_something_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one group"):
        class_maps_figure(GREY, ["a", "b"], [], tmp_path / "no.png")
    mixed = [group(lit((0, 0))), group(lit((0, 0)), binarised=True)]
    with pytest.raises(ValueError, match="for all groups or for none"):
        class_maps_figure(GREY, ["a", "b"], mixed, tmp_path / "no.png")
    with pytest.raises(ValueError, match="one caption for each of 2"):
        class_maps_figure(GREY, ["a"], [group(lit((0, 0)))], tmp_path / "no.png")
    with pytest.raises(ValueError, match="images must be uint8"):
        class_maps_figure(GREY[:0], [], [group(lit((0, 0)))], tmp_path / "no.png")
