"""What was measured is called what its owner calls it."""

import json
from pathlib import Path

import numpy as np
import pytest

from attention_transfer.cli import main
from attention_transfer.data import load
from attention_transfer.runs import RunFolder
from tests.folders import unsplit

QUICK = ["--image-size", "16", "--epochs", "1", "--batch-size", "4", "--device", "cpu", "--threads", "1"]


def trained(tmp_path: Path, held_out: str) -> Path:
    for part, num in (("train", 4), (held_out, 2)):
        unsplit(tmp_path / "images" / part, a=num, b=num)
    words = ["train", "digits", "--student", "resnet8", "--methods", "--data", f"folder:{tmp_path / 'images'}", *QUICK]
    assert main([*words, "--run-folder", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


@pytest.mark.parametrize("held_out", ["valid", "test"])
def test_a_run_says_which_images_it_measured(tmp_path: Path, held_out: str, capsys: pytest.CaptureFixture[str]):
    run = trained(tmp_path, held_out)
    out = capsys.readouterr().out
    assert f"  {held_out} " in out
    assert f"finished {run}: {held_out} top-1" in out
    named = {"images_of": "valid"} if held_out == "valid" else {}
    for score in (RunFolder(run).read_metrics()[0]["test"], (RunFolder(run).summary or {})["student"]["test"]):
        assert {name: value for name, value in score.items() if name == "images_of"} == named
    assert main(["evaluate", str(run), "--device", "cpu", "--output", str(tmp_path / "score.json")]) == 0
    assert f"on {'valid (as test)' if named else 'test'} of folder:" in capsys.readouterr().out
    assert json.loads((tmp_path / "score.json").read_text()).get("images_of") == named.get("images_of")
    assert main(["compare", str(run)]) == 0
    assert f"on 4 {'images of valid' if named else 'test images'}" in capsys.readouterr().out


def test_a_data_set_shows_its_splits_and_no_pixels(tmp_path: Path):
    unsplit(tmp_path / "train", a=300, b=300)
    unsplit(tmp_path / "val", a=2)
    dataset = load(f"folder:{tmp_path}", image_size=16)
    assert repr(dataset) == (
        f"DataSet('folder:{tmp_path}', 2 classes, 16 pixels a side, train=Split(600 images of 16×16×3, 2 classes), "
        "test=Split(2 images of 16×16×3, 1 classes))"
    )
    assert repr(dataset.train.subset(np.zeros(0, dtype=np.int64))) == "Split(0 images of 16×16×3, 0 classes)"
