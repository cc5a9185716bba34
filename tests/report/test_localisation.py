"""What a person sees of accuracy, attention and class maps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attention_transfer.report.class_maps import MapColumns, class_maps_figure
from attention_transfer.report.localisation import localisation_figure, localisation_markdown
from attention_transfer.report.settings_plot import Panel, scatter_figure

SCORES = {
    "energy": 40.0,
    "area": 20.0,
    "energy_over_area": 2.0,
    "pointing": 61.25,
    "box_accuracy_30": 70.0,
    "box_accuracy_50": 50.0,
    "box_accuracy_70": 30.0,
    "box_accuracy": 50.0,
    "box_accuracy_v2": 55.5,
    "flat": 0,
}
RANKED = [name for name in SCORES if name not in ("area", "energy_over_area", "flat")]


def content(flat: int = 0) -> dict[str, Any]:
    """Three models, two kinds of maps."""
    models = [
        {
            "model": f"runs/{name}",
            "data": {"name": "digits", "split": "test", "image_size": 32},
            "images": 2000,
            "boxes": 1990,
            "top1": top1,
            "scores": {kind: SCORES | {"energy": top1 / 2, "flat": flat} for kind in ("activation", "class")},
        }
        for name, top1 in (("a", 60.0), ("b", 80.0), ("c", 70.0))
    ]
    found = {"count": 3, "spearman": 1.0, "spearman_p": 1 / 3, "kendall": 0.9, "kendall_p": 0.5, "note": ""}
    none = dict.fromkeys(found) | {"count": 3, "note": "all equal: nothing to rank"}
    related = {name: found if name == "energy" else none for name in RANKED}
    return {
        "models": models,
        "maps": {
            "activation": {"kind": "activation", "stage": -1, "power": 2.0},
            "class": {"kind": "class", "class_of": "predicted"},
        },
        "correlations": {"activation": related, "class": related},
        "centre": SCORES | {"energy": 33.0},
        "notes": ["the normalisation of runs/c is unknown"],
    }


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_number_stands_under_its_name() -> None:
    lines = localisation_markdown(content()).splitlines()
    header, rows = cells(lines[0]), [cells(line) for line in lines[2:6]]
    assert header[0] == "activation (stage -1, power 2)"
    assert dict(zip(header[1:], rows[1][1:], strict=True)) == {
        "top-1": "80.00",
        "energy in box": "40.00",
        "area of box": "20.00",
        "energy ÷ area": "2.000",
        "pointing": "61.25",
        "MaxBoxAcc .3": "70.00",
        ".5": "50.00",
        ".7": "30.00",
        "their mean": "50.00",
        "MaxBoxAccV2": "55.50",
    }
    assert [row[0] for row in rows] == ["runs/a", "runs/b", "runs/c", "centre (no network)"]
    assert rows[3][1:3] == ["", "33.00"]


def test_correlations_show_numbers_or_why_there_are_none() -> None:
    lines = localisation_markdown(content()).splitlines()
    table = [cells(line) for line in lines[7 : 7 + 2 + len(RANKED)]]
    assert table[0] == ["top-1 against", "models", "Spearman's ρ", "p", "Kendall's τ-b", "p"]
    assert table[2] == ["energy in box", "3", "1.000", "0.333", "0.900", "0.500"]
    assert table[3] == ["pointing", "3", "all equal: nothing to rank", "–", "–", "–"]
    assert [row[0] for row in table[4:]] == [
        "MaxBoxAcc .3",
        "MaxBoxAcc .5",
        "MaxBoxAcc .7",
        "mean MaxBoxAcc",
        "MaxBoxAccV2",
    ]


def test_notes_say_what_was_measured_and_assumed() -> None:
    text = localisation_markdown(content(flat=4))
    assert "Percent of 2,000 test images of digits, 32×32; boxes: the 1,990 of them whose box is known." in text
    assert "class (predicted class)" in text
    assert "tolerance 0" in text
    assert "- the normalisation of runs/c is unknown" in text
    assert "runs/a: 4 class maps are flat" in text
    assert "are flat" not in localisation_markdown(content())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def points(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Centre (x, y) of the uppermost thing that is drawn in a colour: the legend comes last."""
    rows, columns = np.nonzero((abs(picture - np.array(colour)) < 12).all(2))
    above = rows < rows.min() + 15
    return np.array([columns[above].mean(), rows[above].mean()])


def test_better_networks_lie_to_the_right_and_higher_scores_above(tmp_path: Path) -> None:
    panel = Panel("a title", "%", [10.0, 30.0], {"chance": 20.0})
    scatter_figure(["first", "second"], [50.0, 70.0], [[panel]], tmp_path / "one.png")
    picture = pixels(tmp_path / "one.png")
    first, second = points(picture, (31, 119, 180)), points(picture, (255, 127, 14))  # blue, orange
    assert second[0] > first[0] + 50
    assert second[1] < first[1] - 50


def test_each_kind_of_map_has_a_row_of_panels(tmp_path: Path) -> None:
    both = content()
    localisation_figure(both, tmp_path / "deep" / "two.png")
    both["maps"].pop("class")
    localisation_figure(both, tmp_path / "one.png")
    two, one = pixels(tmp_path / "deep" / "two.png"), pixels(tmp_path / "one.png")
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] > one.shape[0] + 300


def test_numbers_that_do_not_fit_the_names_are_refused(tmp_path: Path) -> None:
    panel = Panel("", "", [1.0, 2.0], {})
    with pytest.raises(ValueError, match="1 networks need as many numbers"):
        scatter_figure(["a"], [1.0], [[panel]], tmp_path / "no.png")
    for rows in ([], [[]], [[panel], [panel, panel]]):
        with pytest.raises(ValueError, match="at least one network and one panel"):
            scatter_figure(["a", "b"], [1.0, 2.0], rows, tmp_path / "no.png")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- pictures of class maps

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
