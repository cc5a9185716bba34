"""`probe`, as a user types it."""

import json
from pathlib import Path

import pytest
from tests.analysis.conftest import save_network
from tests.training.conftest import Make, images, make

from attention_transfer import Input
from attention_transfer.commands.probe import command
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment

__all__ = ["images", "make"]

SHORT = ["--epochs", "2", "--batch-size", "16", "--step-epochs", "1", "--seeds", "0", "1"]
SHORT += ["--device", "cpu", "--image-size", "16"]


def test_several_models_share_one_table_and_runs_keep_what_was_found(
    images: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, network = tmp_path / "run", save_network(tmp_path / "network", input=Input())
    fit_experiment(make(methods=(), teacher=None, training={"epochs": 1}), run)
    capsys.readouterr()
    command([str(run), network, "--data", f"npz:{images}", *SHORT])
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [str(run), network]
    assert all("64, input of fc" in row for row in rows[2:])
    assert "24 test images" in table
    assert "SGD, batch 16, learning rate 0.1 times 0.1 after 1 epochs" in table
    (kept,) = (RunFolder(run).path / "findings").iterdir()
    assert kept.name.startswith("linear-probe-npz-")
    assert kept.name.endswith("-16px.json")
    finding = json.loads(kept.read_text())
    command([str(run), "--data", f"npz:{images}", *SHORT, "--json"])
    (printed,) = json.loads(capsys.readouterr().out)
    for content in (finding, printed):
        content.pop("feature_seconds"), content.pop("layer_seconds")
    assert printed == finding
    assert finding["top1"]["mean"] == pytest.approx(sum(score["top1"] for score in finding["test"]) / 2)
    assert f"{finding['top1']['mean']:.2f} ± {finding['top1']['std']:.2f}" in rows[2]
    assert finding["settings"]["epochs"] == 2
    assert finding["data"] | {"name": ""} == {
        "name": "",
        "classes": 3,
        "image_size": 16,
        "train_images": 48,
        "test_images": 24,
    }


def test_what_is_assumed_is_said(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = save_network(tmp_path / "network")
    command([network, "--data", f"npz:{images}", *SHORT])
    assert f"note: the normalisation of {network} is unknown" in capsys.readouterr().out


def test_a_flag_without_effect_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave out --augment crop"):
        command([save_network(tmp_path / "network"), "--data", f"npz:{images}", "--augment", "crop"])


def test_images_are_brought_to_the_size_of_cifar_unless_told_otherwise(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = save_network(tmp_path / "network", input=Input())
    command([network, "--data", f"npz:{images}", "--epochs", "1", "--seeds", "0", "--device", "cpu", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["data"]["image_size"] == 32
    assert found["top1"]["std"] is None
