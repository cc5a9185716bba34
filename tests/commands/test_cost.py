"""`cost`, as a user types it."""

import json
from pathlib import Path

import pytest

from attention_transfer import Data
from attention_transfer.commands.cost import command
from attention_transfer.report.cost import cost_markdown
from attention_transfer.training.experiment_run import fit_experiment
from tests.analysis.conftest import save_network
from tests.training.conftest import Make, images, make

__all__ = ["images", "make"]

QUICK = ["--batch-size", "2", "--repeats", "1", "--device", "cpu", "--threads", "1"]


def test_models_are_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = save_network(tmp_path / "network", name="resnet8")
    command(["resnet14", saved, "--num-classes", "3", "--image-size", "16", *QUICK])
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows] == ["", rows[1][0], "resnet14", saved, "÷ resnet14", rows[5][0], "resnet14", saved]
    assert rows[6][1:] == ["1"] * 7
    assert rows[2][1] == "16×16"
    assert float(rows[7][1]) == pytest.approx(
        int(rows[3][2].replace(",", "")) / int(rows[2][2].replace(",", "")), abs=1e-3
    )
    assert "FLOPs are twice as many" in text
    assert "medians of 1 rounds" in text
    assert "live tensors" in text


def test_each_model_gets_images_of_its_own_size_or_an_assumption_is_said(
    images: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit_experiment(
        make(methods=(), teacher=None, data=Data(f"npz:{images}", image_size=24), training={"epochs": 1}), run
    )
    capsys.readouterr()
    command([str(run), "resnet8", "--num-classes", "3", *QUICK, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert [model["image_size"] for model in content["models"]] == [24, 32]
    assert content["notes"] == ["the image size of resnet8 could not be determined: taken to be 32×32 (--image-size)"]
    assert content["hardware"]["device"] == "cpu"
    assert "taken to be 32×32" in cost_markdown(content)


def test_numbers_are_shown_with_three_digits() -> None:
    model = {
        "name": "one",
        "image_size": 32,
        "parameters": 278_324,
        "multiply_adds": 40_816_960,
        "flops": 81_633_920,
        "latency_seconds": 0.00671,
        "images_per_second": 1279.04,
        "inference_bytes": 22_900_000,
        "training_bytes": 1_050_000_000,
        "file_bytes": 950,
    }
    hardware = {"processor": "a", "threads": 2, "device": "cuda name"}
    content = {"models": [model], "batch_size": 64, "repeats": 20, "hardware": hardware, "torch": "2", "notes": []}
    lines = cost_markdown(content).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "one",
        "32×32",
        "278,324",
        "40.8 M",
        "81.6 M",
        "6.71 ms",
        "1,279.0",
        "22.9 MB",
        "1.05 GB",
        "950 B",
    ]
    assert not any(line.startswith("| ÷") for line in lines)
    assert "allocator" in lines[-2]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size must be at least 1, not 0"):
        command(["resnet8", "--num-classes", "3", "--image-size", "0", *QUICK])
    with pytest.raises(ValueError, match="give num_classes"):
        command(["resnet8", *QUICK])
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        command(["resnet8", "--num-classes", "3", "--batch-size", "1"])


def test_a_run_on_a_set_of_known_size_is_measured_at_that_size(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    data = Data("cluttered-digits", train_limit=16, test_limit=8)
    fit_experiment(make(methods=(), teacher=None, data=data, training={"epochs": 1}), run)
    capsys.readouterr()
    command([str(run), *QUICK, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert [model["image_size"] for model in content["models"]] == [32]
    assert content["notes"] == []
