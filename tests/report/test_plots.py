"""Curves, settings and graphs between images, drawn."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image
from tests.report.test_compare import write_run

from attention_transfer.cli import main
from attention_transfer.report.batch_graph import batch_graph_figure, strongest
from attention_transfer.report.groups import MeasuredRun
from attention_transfer.report.learning_curves import accuracy_figure, epochs_to_reach, reached_markdown
from attention_transfer.report.plots import attention_figure, curves_figure
from attention_transfer.report.settings_plot import settings_figure
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


def write_losses(path: Path, methods: list[dict[str, object]], losses: list[float], validation: bool = False) -> None:
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
    write_losses(tmp_path / "runs" / "ce", [], [2.0, 1.0, 0.5])
    write_losses(tmp_path / "runs" / "at", [{"name": "at", "weight": 1.0}], [1.5, 0.8, 0.4])
    curves_figure(find_runs([tmp_path / "runs"]), tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    for words in ("CE", "AT", "teacher resnet14", "train images", "test images"):
        assert f"<!-- {words} -->" in text


def test_curves_prefer_validation_images_where_every_run_has_them(tmp_path: Path):
    write_losses(tmp_path / "runs" / "ce", [], [2.0, 1.0], validation=True)
    curves_figure(find_runs([tmp_path / "runs"]), tmp_path / "both.svg")
    assert "<!-- validation images -->" in (tmp_path / "both.svg").read_text()
    write_losses(tmp_path / "runs" / "at", [{"name": "at", "weight": 1.0}], [1.5])
    curves_figure(find_runs([tmp_path / "runs"]), tmp_path / "one.svg")
    assert "<!-- validation images -->" not in (tmp_path / "one.svg").read_text()


def test_curves_of_runs_without_an_epoch_are_refused(tmp_path: Path):
    write_losses(tmp_path / "run", [], [])
    with pytest.raises(ValueError, match="no run has finished its first epoch"):
        curves_figure(find_runs([tmp_path]), tmp_path / "no.png")


def test_reports_need_no_torch():
    script = (
        "import sys, attention_transfer.report.plots, attention_transfer.report.table; print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


# ---------------- accuracy is drawn over any setting in which finished runs differ


def copying(**layers: int | None) -> dict[str, Any]:
    return {"name": "attention-copy", "weight": 1.0, "layers": {"first": None, "last": None} | layers}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed, shift in ((0, 0.0), (1, 2.0)):
        write_run(folder / f"alone{seed}", seed, [40.0 + shift])
        write_run(folder / f"all{seed}", seed, [60.0 + shift], methods=(copying(),))
        for count in (2, 4):
            write_run(folder / f"first{count}{seed}", seed, [50.0 + count + shift], methods=(copying(first=count),))
            write_run(folder / f"last{count}{seed}", seed, [55.0 + count + shift], methods=(copying(last=count),))
    return folder


def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is saved from here on."""
    figures: list[Any] = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    return figures


def test_every_setting_is_a_line_and_other_runs_lie_across(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = kept(monkeypatch)
    settings_figure(find_runs([runs]), ["layers.first", "layers.last"], tmp_path / "plot.png")
    (ax,) = figures[0].axes
    lines = {container.get_label(): container.lines[0].get_xydata().tolist() for container in ax.containers}
    assert lines == {"layers.first": [[2, 53], [4, 55]], "layers.last": [[2, 58], [4, 60]]}
    names = ax.get_legend_handles_labels()[1]
    assert {"CE", "attention-copy"} < {name.partition(",")[0] for name in names}
    heights = {line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"}
    assert heights == {41.0, 61.0}


def test_the_command_draws_it(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(runs), "--over", "layers.first", "--plot", str(tmp_path / "plot.png")])
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert "plot: " in capsys.readouterr().out


def test_nothing_to_draw_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished run has a number for temperature"):
        settings_figure(find_runs([runs]), ["temperature"], tmp_path / "plot.png")
    with pytest.raises(ValueError, match=r"has weight and layers\.first: draw over one of them"):
        settings_figure(find_runs([runs]), ["weight", "layers.first"], tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def test_methods_have_lines_of_their_own_and_other_differences_are_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = kept(monkeypatch)
    for count in (2, 4):
        distilling = copying(first=count) | {"name": "attention-distillation"}
        write_run(tmp_path / f"other{count}", 0, [70.0 + count], methods=(distilling,))
    settings_figure(find_runs([runs, *tmp_path.glob("other*")]), ["layers.first"], tmp_path / "plot.png")
    lines = {each.get_label(): each.lines[0].get_ydata().tolist() for each in figures[0].axes[0].containers}
    assert lines == {"attention-copy, layers.first": [53, 55], "attention-distillation, layers.first": [72, 74]}
    both = (copying(first=2), copying(first=4) | {"name": "attention-distillation"})
    write_run(tmp_path / "both", 0, [1.0], methods=both)
    with pytest.raises(ValueError, match=r"both has several settings layers\.first: write more of the path"):
        settings_figure(find_runs([tmp_path / "both"]), ["layers.first"], tmp_path / "plot.png")
    write_run(tmp_path / "slower", 0, [1.0], methods=(copying(first=2),), optimisation={"learning_rate": 0.1})
    with pytest.raises(ValueError, match=r"two groups of runs have layers\.first=2"):
        settings_figure(find_runs([runs, tmp_path / "slower"]), ["layers.first"], tmp_path / "plot.png")


def test_one_flag_without_the_other_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs), "--over", "layers.first"]) != 0
    assert "give --over and --plot together" in capsys.readouterr().err


# ---------------------------------------------------------------- pictures of graphs between images

SMALL_GREY = np.full((4, 8, 8, 3), 128, dtype=np.uint8)
LABELS = np.array([0, 0, 1, 1])


def graph(*edges: tuple[int, int, float]) -> np.ndarray:
    """One head with a few shares; the rest stays with each image itself."""
    shares = np.zeros((4, 4))
    for start, end, share in edges:
        shares[start, end] = share
    return shares + np.diag(1 - shares.sum(1))


def test_the_strongest_edges_come_first_and_leave_out_the_image_itself() -> None:
    found = strongest(graph((0, 1, 0.2), (3, 2, 0.4), (1, 0, 0.3)), 3)
    assert found.tolist() == [[3, 2], [1, 0], [0, 1]]
    assert len(strongest(np.full((3, 3), 1 / 3), 100)) == 6


def written(picture: Path) -> list[str]:
    return [line.strip()[5:-4] for line in picture.read_text().splitlines() if line.strip().startswith("<!--")]


def test_every_graph_has_a_row_and_every_head_its_count_of_edges_within_a_class(tmp_path: Path) -> None:
    heads = np.stack([graph((0, 1, 0.5), (2, 3, 0.4)), graph((0, 2, 0.5), (2, 3, 0.4)), graph((0, 3, 0.5))])
    graphs = {"teacher": heads, "student": heads[::-1]}
    batch_graph_figure(SMALL_GREY, LABELS, graphs, [0, 1], 2, tmp_path / "graph.svg")
    words = written(tmp_path / "graph.svg")
    assert [word for word in words if "head" not in word] == ["teacher", "student"]
    heads_of = [word for word in words if "head" in word]
    assert heads_of[:2] == ["head 1: 2 of 2 in class", "head 2: 1 of 2 in class"]
    assert len(heads_of) == 4


def colours(picture: Path) -> tuple[int, int]:
    """How many pixels are rather green, and rather red."""
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return int(((green > red + 60) & (green > blue + 20)).sum()), int(((red > green + 60) & (red > blue + 60)).sum())


def test_edges_within_a_class_are_green_and_others_red(tmp_path: Path) -> None:
    for name, edge in (("within", (0, 1, 0.9)), ("across", (0, 2, 0.9))):
        batch_graph_figure(SMALL_GREY, LABELS, {"teacher": graph(edge)[None]}, [0], 1, tmp_path / f"{name}.png")
    assert colours(tmp_path / "within.png")[0] > 50
    assert colours(tmp_path / "within.png")[1] == 0
    assert colours(tmp_path / "across.png")[0] == 0
    assert colours(tmp_path / "across.png")[1] > 50


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"images": SMALL_GREY[:1]}, "n at least 2"),
        ({"labels": LABELS[:2]}, "one label for each of 4 images"),
        ({"graphs": {}}, "a graph, a head and an edge"),
        ({"edges": 0}, "a graph, a head and an edge"),
        ({"graphs": {"teacher": np.ones((1, 3, 3))}}, r"must be \(heads, 4, 4\)"),
        ({"heads": [1]}, "has the heads 1 to 1; there is no head 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changed: dict[str, object], words: str, tmp_path: Path) -> None:
    given = {
        "images": SMALL_GREY,
        "labels": LABELS,
        "graphs": {"teacher": graph()[None]},
        "heads": [0],
        "edges": 1,
    } | changed
    with pytest.raises(ValueError, match=words):
        batch_graph_figure(**given, path=tmp_path / "graph.png")  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- how fast runs learn, drawn and counted


def write_curve(path: Path, seed: int, methods: list[dict[str, object]], top1: dict[int, float]) -> None:
    with RunFolder.create_or_resume(path, {"seed": seed, "teacher": "resnet14", "methods": methods}) as run:
        for epoch in range(1, 5):
            measured = {"test": {"loss": 1.0, "top1": top1[epoch]}} if epoch in top1 else {}
            run.append_metrics({"epoch": epoch, "train": {"loss": 1.0}} | measured)
        run.write_summary({"epochs": 4})


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    write_curve(tmp_path / "ce-0", 0, [], {2: 10.0, 4: 40.0})
    write_curve(tmp_path / "ce-1", 1, [], {2: 30.0, 4: 20.0})
    write_curve(tmp_path / "at-0", 0, [{"name": "at"}], {1: 50.0, 2: 45.0, 4: 70.0})
    return tmp_path


def test_the_first_measured_epoch_counts(curves: Path):
    run = MeasuredRun.read(RunFolder(curves / "at-0"))
    assert [epochs_to_reach(run, accuracy) for accuracy in (45, 50, 60, 70, 71)] == [1, 1, 4, 4, None]


def test_means_are_over_the_seeds_that_reach_it(curves: Path):
    lines = reached_markdown(find_runs([curves]), (20, 40, 80)).splitlines()
    rows = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)}
    assert rows["CE"] == ["2", "3.0", "4.0 (1 of 2)", "–"]
    assert rows["AT"] == ["1", "1.0", "1.0", "–"]
    assert rows["epochs until test top-1 is at least"] == ["seeds", "20 %", "40 %", "80 %"]


def test_accuracy_is_drawn_and_compare_says_when_it_is_reached(
    curves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    accuracy_figure(find_runs([curves]), tmp_path / "figure.png", (50,))
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 500
    write_curve(tmp_path / "empty" / "run", 0, [], {})
    with pytest.raises(ValueError, match="nothing to draw"):
        accuracy_figure(find_runs([tmp_path / "empty"]), tmp_path / "none.png")
    assert main(["compare", str(curves), "--reach", "20", "--format", "json"]) == 2
    assert "leave out --format json" in capsys.readouterr().err
