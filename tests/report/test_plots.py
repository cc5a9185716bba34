import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_transfer.report.plots import attention_figure, curves_figure
from attention_transfer.runs import RunFolder, find_runs

GREY = np.full((2, 32, 32, 3), 128, dtype=np.uint8)


def corner(rows: int = 8) -> np.ndarray:
    """Maps that are hot in the lower right quarter only."""
    maps = np.zeros((2, rows, rows))
    maps[:, rows // 2 :, rows // 2 :] = 7.0
    return maps


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def cells(path: Path, columns: int) -> list[np.ndarray]:
    """The picture's lower row, by column."""
    picture = pixels(path)
    row = picture[-picture.shape[1] // columns :]
    return np.array_split(row, columns, axis=1)


def write_run(path: Path, methods: list[dict[str, object]], losses: list[float], validation: bool = False) -> None:
    with RunFolder.create_or_resume(path, {"seed": 0, "teacher": "resnet14", "methods": methods}) as run:
        for epoch, loss in enumerate(losses, start=1):
            row: dict[str, object] = {"epoch": epoch, "train": {"loss": loss}, "test": {"loss": loss + 1, "top1": 50.0}}
            run.append_metrics(row | ({"validation": {"loss": 9.0, "top1": 1.0}} if validation else {}))
        run.write_summary({"teacher": {"train": {"loss": 0.1}, "test": {"loss": 0.2, "top1": 90.0}}})


def test_heat_lies_where_the_map_is_high_at_any_resolution(tmp_path: Path):
    attention_figure(GREY, {"fine": corner(32), "coarse": corner(4)}, None, tmp_path / "maps.png")
    image, *heated = cells(tmp_path / "maps.png", 3)
    assert np.ptp(image[40:-40, 40:-40]) < 4  # an even image stays even
    for cell in heated:
        half = len(cell) // 2
        hot, cold = cell[half + 30 : -20, half + 30 : -20, 0], cell[20 : half - 30, 20 : half - 30, 0]
        assert hot.mean() > cold.mean() + 80


def test_boxes_are_drawn_on_every_column(tmp_path: Path):
    boxes = np.array([[4, 4, 28, 28]] * 2, dtype=np.float32)
    attention_figure(GREY, {"map": corner()}, boxes, tmp_path / "with.png")
    attention_figure(GREY, {"map": corner()}, None, tmp_path / "without.png")

    def cyan(path: Path) -> list[int]:
        return [int(((cell[..., 0] < 40) & (cell[..., 1] > 200)).sum()) for cell in cells(path, 2)]

    assert min(cyan(tmp_path / "with.png")) > 300
    assert cyan(tmp_path / "without.png") == [0, 0]


def test_a_map_that_is_the_same_everywhere_is_cold_and_no_division_by_zero(tmp_path: Path):
    attention_figure(GREY, {"flat": np.full((2, 4, 4), 3.0)}, None, tmp_path / "flat.png")
    assert cells(tmp_path / "flat.png", 2)[1][40:-40, 40:-40].mean() < 128


@pytest.mark.parametrize(
    ("maps", "boxes", "words"),
    [
        ({"m": np.zeros((3, 4, 4))}, None, r"maps «m» must be \(2, rows, columns\), not \(3, 4, 4\)"),
        ({"m": np.full((2, 4, 4), np.nan)}, None, "not finite"),
        ({}, np.zeros((1, 4)), r"boxes must be \(2, 4\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, maps: dict[str, np.ndarray], boxes: np.ndarray | None, words: str
):
    with pytest.raises(ValueError, match=words):
        attention_figure(GREY, maps, boxes, tmp_path / "no.png")
    with pytest.raises(ValueError, match="images must be uint8"):
        attention_figure(GREY.astype(np.float32), {}, None, tmp_path / "no.png")  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


def test_curves_show_groups_and_the_frozen_teacher(tmp_path: Path):
    write_run(tmp_path / "runs" / "ce", [], [2.0, 1.0, 0.5])
    write_run(tmp_path / "runs" / "at", [{"name": "at", "weight": 1.0}], [1.5, 0.8, 0.4])
    curves_figure(find_runs([tmp_path / "runs"]), tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    for words in ("CE", "AT", "teacher resnet14", "train images", "test images"):
        assert f"<!-- {words} -->" in text


def test_curves_prefer_validation_images_where_every_run_has_them(tmp_path: Path):
    write_run(tmp_path / "runs" / "ce", [], [2.0, 1.0], validation=True)
    curves_figure(find_runs([tmp_path / "runs"]), tmp_path / "both.svg")
    assert "<!-- validation images -->" in (tmp_path / "both.svg").read_text()
    write_run(tmp_path / "runs" / "at", [{"name": "at", "weight": 1.0}], [1.5])
    curves_figure(find_runs([tmp_path / "runs"]), tmp_path / "one.svg")
    assert "<!-- validation images -->" not in (tmp_path / "one.svg").read_text()


def test_curves_of_runs_without_an_epoch_are_refused(tmp_path: Path):
    write_run(tmp_path / "run", [], [])
    with pytest.raises(ValueError, match="no run has finished its first epoch"):
        curves_figure(find_runs([tmp_path]), tmp_path / "no.png")


def test_reports_need_no_torch():
    script = (
        "import sys, attention_transfer.report.plots, attention_transfer.report.table; print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
