"""`localise`, as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.conftest import save_network
from tests.training.conftest import Make, images, make

from attention_transfer import Data, Input
from attention_transfer.commands.localise import command
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment

__all__ = ["images", "make"]


@pytest.fixture
def boxed(images: Path, tmp_path: Path) -> Path:
    """The small images with a box in the middle of each, unknown for the first test image."""
    folder = tmp_path / "boxed"
    folder.mkdir()
    for split in ("train", "test"):
        with np.load(images / f"{split}.npz") as file:
            boxes = np.tile(np.array([4, 4, 12, 12], dtype=np.float32), (len(file["labels"]), 1))
            boxes[0] = np.nan
            np.savez(folder / f"{split}.npz", images=file["images"], labels=file["labels"], boxes=boxes)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    return [save_network(tmp_path / f"network{seed}", seed=seed, input=Input()) for seed in range(3)]


def test_models_share_a_table_and_a_picture_and_runs_keep_what_was_found(
    boxed: Path, models: list[str], make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit_experiment(make(methods=(), teacher=None, data=Data(f"npz:{boxed}"), training={"epochs": 1}), run)
    capsys.readouterr()
    common = ["--device", "cpu", "--map", "activation", "gradient", "--stage", "1"]
    # The run says which data.
    command([str(run), *models, *common, "--figure", str(tmp_path / "picture.png")])
    text = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows[:7] == ["activation (stage 1, power 2)", rows[1], str(run), *models, "centre (no network)"]
    assert "24 test images of npz:" in text
    assert "the 23 of them whose box is known" in text
    assert (tmp_path / "picture.png").stat().st_size > 1000

    command([str(run), *models, *common, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert [model["model"] for model in content["models"]] == [str(run), *models]
    assert content["correlations"]["gradient"]["pointing"]["count"] == 4
    findings = {path.name: json.loads(path.read_text()) for path in (RunFolder(run).path / "findings").iterdir()}
    assert len(findings) == 2
    for kind, name in (
        ("activation", "localisation-activation-1-2.0-npz-"),
        ("gradient", "localisation-gradient-true-"),
    ):
        (kept,) = (finding for path, finding in findings.items() if path.startswith(name))
        assert kept["scores"] == content["models"][0]["scores"][kind]
        assert kept["map"] == content["maps"][kind]
        assert kept["top1"] == content["models"][0]["top1"]


def test_all_models_are_checked_before_the_first_is_measured(
    boxed: Path, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_transfer.commands.localise.localise", lambda *_, **__: pytest.fail("measured"))
    other = save_network(tmp_path / "other", classes=4, input=Input())
    with pytest.raises(ValueError, match=r"other has 4 classes, .* has 3"):
        command([*models, other, "--data", f"npz:{boxed}", "--device", "cpu"])


def test_what_makes_no_sense_is_refused(images: Path, boxed: Path, models: list[str]) -> None:
    with pytest.raises(ValueError, match="has no boxes"):
        command([models[0], "--data", f"npz:{images}", "--device", "cpu"])
    with pytest.raises(ValueError, match="give a stage from 0 to 2, not 3"):
        command([models[0], "--data", f"npz:{boxed}", "--stage", "3", "--device", "cpu"])
    with pytest.raises(ValueError, match="names a network without weights"):
        command(["resnet8", "--data", f"npz:{boxed}", "--device", "cpu"])
    with pytest.raises(SystemExit):
        command([models[0], "--map", "heat"])
