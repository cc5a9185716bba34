"""`class-maps`, as a user types it."""

from pathlib import Path

import numpy as np
import pytest
from tests.analysis.conftest import CPU, dataset, save_network
from tests.training.conftest import Make, images, make

from attention_transfer import Input
from attention_transfer.analysis.class_maps import evidence
from attention_transfer.analysis.subject import open_subjects
from attention_transfer.commands.class_maps import command
from attention_transfer.data import DataSet
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import load_data

__all__ = ["dataset", "images", "make"]


@pytest.fixture
def networks(tmp_path: Path) -> list[str]:
    """Two networks of the same classes."""
    return [save_network(tmp_path / name, seed, input=Input()) for seed, name in enumerate(("teacher", "student"))]


def words(picture: Path) -> list[str]:
    """Everything that is written in a picture: what is above the groups, then image by image."""
    return [line.strip()[5:-4] for line in picture.read_text().splitlines() if line.strip().startswith("<!--")]


def run(arguments: list[str], images: Path, picture: Path) -> list[str]:
    command([*arguments, "--data", f"npz:{images}", "--figure", str(picture), "--device", "cpu"])
    return words(picture)


def test_each_model_shows_the_classes_that_it_finds_most_likely(
    networks: list[str], images: Path, dataset: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = run([*networks, "--top", "2", "--index", "4", "9"], images, tmp_path / "maps.svg")
    shown = dataset.test.subset(np.array([4, 9]))
    found = [evidence(subject, shown) for subject in open_subjects(networks, dataset, CPU)]
    expected: list[str] = []
    for i, caption in enumerate(("1 #4", "0 #9")):
        expected.append(caption)
        for each in found:
            classes = each.ranked(2)
            scores = each.scores(classes)
            expected += [f"{k} {p:.2f}" for k, p in zip(classes[i], scores[i], strict=True)]
    assert written == [word.replace(" 0.00", " <0.01") for word in ("teacher", "student", *expected)]
    assert f"picture: {tmp_path / 'maps.svg'}   (images 4 9 of test)" in capsys.readouterr().out


def test_all_models_can_show_the_classes_of_the_first(networks: list[str], images: Path, tmp_path: Path) -> None:
    written = run([*networks, "--top", "1", "--same-classes", "--images", "4"], images, tmp_path / "maps.svg")
    rows = [written[2 + 3 * i : 5 + 3 * i] for i in range(4)]
    assert all(first.split()[0] == second.split()[0] for _, first, second in rows)
    own = run([*networks, "--top", "1", "--images", "4"], images, tmp_path / "own.svg")
    assert own != written


def test_binarised_maps_have_rows_of_their_own(networks: list[str], images: Path, tmp_path: Path) -> None:
    plain = run([networks[0], "--top", "3", "--images", "2"], images, tmp_path / "plain.svg")
    arguments = [networks[0], "--top", "3", "--images", "2", "--binarise", "median", "--resolution", "2"]
    assert run(arguments, images, tmp_path / "both.svg").count("binarised") == 2
    assert "binarised" not in plain


def test_a_run_is_drawn_along_its_training_on_its_own_images(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fit_experiment(make(methods=(), teacher=None, training={"epochs": 2, "snapshot_epochs": (0, 1)}), folder)
    picture = tmp_path / "maps.svg"
    arguments = [str(folder), "--along-training", "--figure", str(picture), "--device", "cpu", "--index", "5", "6"]
    command(arguments)
    written = words(picture)
    assert written[:3] == ["epoch 0", "epoch 1", "epoch 2"]
    assert [word.split()[0] for word in written[3:]] == ["2"] * 4 + ["0"] * 4
    assert len(set(written[4:7])) == 3
    command([*arguments, "--class-of", "predicted"])
    predicted = words(picture)
    shown = load_data(make().data, 0).test.subset(np.array([5, 6]))
    (end,) = open_subjects([str(folder)], load_data(make().data, 0), CPU)
    best = evidence(end, shown).ranked(1)[:, 0]
    assert [word.split()[0] for word in predicted[4:7] + predicted[8:11]] == [str(best[0])] * 3 + [str(best[1])] * 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--along-training", "--top", "2"], "leave out --top"),
        (["--class-of", "true"], "--class-of goes with --along-training"),
        (["--along-training"], "draws one run: give one run folder"),
        (["--top", "4"], "top must be between 1 and the 3 classes"),
        (["--resolution", "9"], "resolution must be between 1 and 4"),
        (["--split", "validation"], "nothing was set aside for validation"),
        (["--index", "24"], "from 0 to 23, not 24"),
        (["--network-layer", "layer1"], "the network has no class maps at layer1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_leaves_no_file(
    networks: list[str], images: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        run([networks[0], *arguments], images, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


def test_a_run_without_snapshots_says_how_to_keep_some(make: Make, images: Path, tmp_path: Path) -> None:
    fit_experiment(make(methods=(), teacher=None, training={"epochs": 1}), tmp_path / "run")
    with pytest.raises(ValueError, match="kept no snapshots: train with --snapshot-epochs"):
        run([str(tmp_path / "run"), "--along-training"], images, tmp_path / "no.png")


def test_a_model_of_other_classes_has_numbers_for_names(images: Path, tmp_path: Path) -> None:
    other = save_network(tmp_path / "other", classes=7, input=Input())
    written = run([other, "--images", "1"], images, tmp_path / "maps.svg")
    assert [word.startswith("class ") for word in written] == [False] * 2 + [True] * 4
    same = save_network(tmp_path / "same", classes=3, input=Input())
    with pytest.raises(ValueError, match="--same-classes needs models of the same classes, not of 3 and 7"):
        run([other, same, "--same-classes"], images, tmp_path / "no.png")
