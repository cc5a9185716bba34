"""How fast runs learn, drawn and counted."""

from pathlib import Path

import pytest
from PIL import Image

from attention_transfer.cli import main
from attention_transfer.report.groups import MeasuredRun
from attention_transfer.report.learning_curves import accuracy_figure, epochs_to_reach, reached_markdown
from attention_transfer.runs import RunFolder, find_runs


def write_run(path: Path, seed: int, methods: list[dict[str, object]], top1: dict[int, float]) -> None:
    with RunFolder.create_or_resume(path, {"seed": seed, "teacher": "resnet14", "methods": methods}) as run:
        for epoch in range(1, 5):
            measured = {"test": {"loss": 1.0, "top1": top1[epoch]}} if epoch in top1 else {}
            run.append_metrics({"epoch": epoch, "train": {"loss": 1.0}} | measured)
        run.write_summary({"epochs": 4})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path / "ce-0", 0, [], {2: 10.0, 4: 40.0})
    write_run(tmp_path / "ce-1", 1, [], {2: 30.0, 4: 20.0})
    write_run(tmp_path / "at-0", 0, [{"name": "at"}], {1: 50.0, 2: 45.0, 4: 70.0})
    return tmp_path


def test_the_first_measured_epoch_counts(runs: Path):
    run = MeasuredRun.read(RunFolder(runs / "at-0"))
    assert [epochs_to_reach(run, accuracy) for accuracy in (45, 50, 60, 70, 71)] == [1, 1, 4, 4, None]


def test_means_are_over_the_seeds_that_reach_it(runs: Path):
    lines = reached_markdown(find_runs([runs]), (20, 40, 80)).splitlines()
    rows = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)}
    assert rows["CE"] == ["2", "3.0", "4.0 (1 of 2)", "–"]
    assert rows["AT"] == ["1", "1.0", "1.0", "–"]
    assert rows["epochs until test top-1 is at least"] == ["seeds", "20 %", "40 %", "80 %"]


def test_accuracy_is_drawn_and_compare_says_when_it_is_reached(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    accuracy_figure(find_runs([runs]), tmp_path / "figure.png", (50,))
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 500
    write_run(tmp_path / "empty" / "run", 0, [], {})
    with pytest.raises(ValueError, match="nothing to draw"):
        accuracy_figure(find_runs([tmp_path / "empty"]), tmp_path / "none.png")
    assert main(["compare", str(runs), "--reach", "20", "--format", "json"]) == 2
    assert "leave out --format json" in capsys.readouterr().err
