"""`links` and `attention-maps`, as a user types them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.training.conftest import Make, images, make

from attention_transfer import AttentionLinks, Data, Input
from attention_transfer.cli import main
from attention_transfer.commands import links
from attention_transfer.methods.attention_links.selection import read_links
from attention_transfer.models import save_model
from attention_transfer.report.link_maps import link_maps_figure, link_table
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter

__all__ = ["images", "make"]

STUDENT = "timm:vit_tiny_patch16_224(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3)"


def size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


@pytest.fixture
def run(make: Make, tmp_path: Path) -> Path:
    folder = tmp_path / "full"
    optimisation = {"learning_rate": 0.01, "optimizer": "adamw"}
    experiment = make(
        student=STUDENT,
        teacher="resnet8",
        methods=(AttentionLinks(),),
        optimisation=optimisation,
        training={"epochs": 1, "snapshot_epochs": (0, 1)},
    )
    fit_experiment(experiment, folder, Reporter(silent=True))
    return folder


def test_links_are_extracted_by_one_run_and_used_by_another(
    run: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figure = tmp_path / "links.json", tmp_path / "links.png"
    arguments = ["links", str(run), "--threshold", "0.5", "--per", "channel", "--out", str(out)]
    assert main([*arguments, "--figure", str(figure)]) == 0
    text = capsys.readouterr().out
    assert "a threshold of 0.5 per channel keeps " in text
    assert "| stage" in text
    assert "**" in text
    assert size(figure)[0] > 100
    choice = read_links(out)
    assert (choice.channels, choice.heads) == ((16, 32, 64), (3, 3))
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert 0 < content["links_kept"] < content["links"] == 112 * 6
    kept = json.loads((run / "findings" / "attention-links-0.5-per-channel.json").read_text())
    assert kept == content
    second = tmp_path / "second"
    fit_experiment(
        make(student=STUDENT, teacher="resnet8", methods=(AttentionLinks(links=str(out)),), training={"epochs": 1}),
        second,
        Reporter(silent=True),
    )
    assert RunFolder(second).finished
    # Of the students nothing is needed but timm.
    for folder in (run, second):
        sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 3}
        plain = timm.create_model("vit_tiny_patch16_224", **sizes)
        plain.load_state_dict(load_file(folder / "student.safetensors"))
    assert main(["links", str(second), "--threshold", "0", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["links"] == content["links_kept"]
    assert main(["links", str(run), str(second), "--figure", str(tmp_path / "both.png")]) == 0
    assert (tmp_path / "both.png").exists()


def test_links_of_another_pair_and_a_threshold_that_leaves_nothing_are_refused(
    run: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "links.json"
    assert main(["links", str(run), "--threshold", "0.999", "--out", str(out)]) == 2
    assert "removes every link" in capsys.readouterr().err
    assert not out.exists()
    assert main(["links", str(run), "--threshold", "0.01", "--out", str(out)]) == 0
    deeper = STUDENT.replace("depth=2", "depth=3")
    with pytest.raises(ValueError, match="belong to a student of 2 layers, and this one has 3"):
        fit_experiment(
            make(student=deeper, teacher="resnet8", methods=(AttentionLinks(links=str(out)),)), tmp_path / "other"
        )


def test_a_run_of_which_nothing_is_kept_is_drawn_all_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(links, "PAPERS_THRESHOLD", 0.999)
    figure = tmp_path / "links.png"
    assert main(["links", str(run), "--figure", str(figure)]) == 0
    text = capsys.readouterr().out
    assert "nothing is extracted: a threshold of 0.999 removes every link" in text
    assert "| stage" in text
    assert size(figure)[0] > 100
    assert main(["links", str(run), "--along-training", "--figure", str(tmp_path / "along.png")]) == 0
    capsys.readouterr()
    assert main(["links", str(run), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["kept"] is None
    assert "removes every link" in content["why"]
    assert not (run / "findings").exists()
    for asked in (["--out", str(tmp_path / "links.json")], ["--per", "channel"], ["--signed"]):
        assert main(["links", str(run), *asked]) == 2
        assert "removes every link" in capsys.readouterr().err


def test_a_run_that_diverged_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "parts.safetensors"
    parts = load_file(path)
    next(value for name, value in parts.items() if name.endswith("weight"))[0, 0] = float("nan")
    save_file(parts, path)
    assert main(["links", str(run)]) == 2
    assert "this training diverged" in capsys.readouterr().err


def test_a_share_of_links_is_kept(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "links.json"
    assert main(["links", str(run), "--keep", "0.5", "--out", str(out)]) == 0
    assert "3 of 6 pairs of a stage and a layer" in capsys.readouterr().out
    assert read_links(out).num_groups == 3
    finding = json.loads((run / "findings" / "attention-links-keep-0.5-per-stage.json").read_text())
    assert np.sum(finding["kept"]) == 3
    assert 0 < finding["threshold"] < 1
    assert finding["keep"] == json.loads(out.read_text())["keep"] == 0.5
    assert main(["links", str(run), "--keep", "0.5", "--threshold", "0.1"]) == 2
    assert "not both" in capsys.readouterr().err


def test_links_are_drawn_along_training(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "along.png"
    assert main(["links", str(run), "--threshold", "0", "--along-training", "--figure", str(figure)]) == 0
    assert size(figure)[0] > 300
    capsys.readouterr()
    for arguments, reason in (
        ([str(run), "--along-training"], "give --figure"),
        ([str(run), str(run), "--along-training"], "about one run"),
        ([str(run), str(run), "--out", "x"], "about one run"),
        ([str(run), str(run), "--keep", "0.5"], "about one run"),
        ([str(run), str(run), "--threshold", "0.5"], "about one run"),
        ([str(run), str(run), "--per", "channel"], "about one run"),
        ([str(run), str(run), "--signed"], "about one run"),
    ):
        assert main(["links", *arguments]) == 2
        assert reason in capsys.readouterr().err
    # What is refused leaves nothing behind.
    assert main(["links", str(run), "--along-training", "--threshold", "0.25", "--out", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
    assert not list((run / "findings").glob("*0.25*"))


def test_runs_of_one_name_in_several_folders_are_told_apart(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [tmp_path / place / "links-seed0" for place in ("birds", "flowers")]
    for other in others:
        shutil.copytree(run, other)
    figure = tmp_path / "both.svg"
    assert main(["links", *map(str, others), "--figure", str(figure)]) == 0
    shown, drawn = capsys.readouterr().out, figure.read_text()
    assert all(f"{other}\n" in shown and str(other) in drawn for other in others)
    assert main(["links", *map(str, others), "--json"]) == 0
    assert [each["run"] for each in json.loads(capsys.readouterr().out)["runs"]] == list(map(str, others))


def test_runs_without_links_or_snapshots_are_refused(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_experiment(make(training={"epochs": 1}), tmp_path / "other", Reporter(silent=True))
    assert main(["links", str(tmp_path / "other")]) == 2
    assert "has learned nothing beside its student" in capsys.readouterr().err


def test_a_missing_link_is_grey_and_no_number(tmp_path: Path) -> None:
    values = np.array([[0.5, np.nan], [0.25, 0.125]])
    table = link_table(values, np.array([[True, False], [False, True]]))
    assert "**0.5000**" in table
    assert "–" in table
    link_maps_figure({"one": values, "two": 2 * values}, tmp_path / "maps.svg")
    assert (tmp_path / "maps.svg").stat().st_size > 1000
    with pytest.raises(ValueError, match="no links to draw"):
        link_maps_figure({}, tmp_path / "none.png")


def test_attention_is_drawn_and_localised(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 3}
    network, saved = timm.create_model("vit_tiny_patch16_224", **sizes), tmp_path / "network"
    saved.mkdir()
    save_model(network, saved, STUDENT, 3, 16, Input())
    figure, data = tmp_path / "attention.png", ["--data", f"npz:{images}", "--device", "cpu", "--threads", "1"]
    assert main(["attention-maps", str(saved), "--figure", str(figure), "--images", "2", *data]) == 0
    assert "images 0 23 of test" in capsys.readouterr().out
    assert size(figure)[1] > 300
    assert main(["attention-maps", "resnet8@nowhere.pt", "--figure", str(figure), *data]) == 2
    assert Data(f"npz:{images}").name in data
    file = images / "test.npz"
    content = dict(np.load(file))
    np.savez(file, **content, boxes=np.tile(np.array([2.0, 2.0, 10.0, 10.0]), (24, 1)))
    capsys.readouterr()
    assert main(["localise", str(saved), "--map", "attention", *data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["maps"] == {"attention": {"kind": "attention"}}
    assert 0 <= found["models"][0]["scores"]["attention"]["box_accuracy_30"] <= 100
