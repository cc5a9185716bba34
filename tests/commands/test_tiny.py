"""`--tiny`: digits where nobody says which data, and otherwise a few images of those that are given."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.folders import unsplit

from attention_transfer.cli import main
from attention_transfer.commands.train import parse
from attention_transfer.errors import InputError
from attention_transfer.recipes import RECIPES
from attention_transfer.runs import RunFolder
from attention_transfer.training.prepare import load_data


def sorted_arrays(place: Path, *, classes: int, each: int) -> str:
    """npz files in which classes come one after the other."""
    place.mkdir()
    for name in ("train", "test"):
        labels = np.repeat(np.arange(classes), each)
        images = np.random.default_rng(0).integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
        np.savez(place / f"{name}.npz", images=images, labels=labels)
    return f"npz:{place}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_the_data_that_are_given(recipe: str, tmp_path: Path):
    full = RECIPES[recipe]()
    own = replace(full, data=replace(full.data, name=f"folder:{tmp_path}")).tiny(own_data=True).data
    assert (own.name, own.train_sample, own.test_limit) == (f"folder:{tmp_path}", 16, 16)
    assert (own.train_limit, own.train_classes, own.decoding) == (
        full.data.train_limit,
        full.data.train_classes,
        full.data.decoding,
    )
    digits = full.tiny().data
    assert (digits.name, digits.train_limit, digits.train_sample) == ("cluttered-digits", 16, None)


def test_what_is_said_decides_whose_images_are_taken(tmp_path: Path):
    for words in (["--data", "npz:here"], ["--data=npz:here"]):
        assert parse(RECIPES["digits"](), ["--tiny", *words])[0].data.name == "npz:here"
    for words in (["--data-root", "here"], ["--data-root=here"], ["--data_root", "here"]):
        data = parse(RECIPES["cifar100-resnet56-resnet20"](), ["--tiny", *words])[0].data
        assert (data.name, data.root, data.train_sample, data.test_limit) == ("cifar100", Path("here"), 16, 16)
        for extra in ([], ["--tiny"]):
            with pytest.raises(InputError, match="'folder:images' names its own path: give --data folder:PATH"):
                parse(RECIPES["photographs"](), [*extra, *words])
    assert parse(RECIPES["digits"](), ["--tiny", "--data-root", "here"])[0].data.name == "cluttered-digits"
    assert parse(RECIPES["cifar100-resnet56-resnet20"](), ["--tiny"])[0].data.name == "cluttered-digits"


def test_a_root_without_the_data_is_refused_and_digits_do_not_take_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = next(name for name, make in RECIPES.items() if make().data.name == "cub200")
    root = tmp_path / "empty"
    root.mkdir()
    words = ["train", recipe, "--tiny", "--data-root", str(root), "--run-folder", str(tmp_path / "run")]
    assert main(words) == 2
    assert f"there is no folder CUB_200_2011 in {root}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("classes", [2, 3, 40])
def test_every_class_is_among_the_few_images(tmp_path: Path, classes: int):
    for name in (
        sorted_arrays(tmp_path / "arrays", classes=classes, each=20),
        unsplit(tmp_path / "images", **{f"class{i:02}": 5 for i in range(classes)}),
    ):
        experiment, _ = parse(RECIPES["digits"](), ["--tiny", f"--data={name}"])
        dataset = load_data(experiment.data, 0)
        assert dataset.num_classes == classes
        assert np.unique(dataset.train.labels).tolist() == list(range(classes))
        # A fifth of the files is set aside: one of five.
        left = 4 * classes if name.startswith("folder:") else 20 * classes
        assert len(dataset.train) == min(max(16, classes), left)
        assert len(dataset.test) <= 16


@pytest.mark.parametrize("recipe", ["digits", "cat-table6-resnet56-resnet20"])
def test_a_tiny_run_learns_from_the_users_images(recipe: str, tmp_path: Path):
    name, run = unsplit(tmp_path / "images", red=20, green=20), tmp_path / "run"
    words = ["--tiny", "--data", name, "--background", "black", "--threads", "1", "--device", "cpu"]
    assert main(["train", recipe, *words, "--run-folder", str(run)]) == 0
    assert RunFolder(run).experiment["data"]["name"] == name
    assert (RunFolder(run).summary or {})["samples_seen"] == 16
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0


def test_settings_of_files_do_not_follow_to_digits(tmp_path: Path):
    words = ["--tiny", "--background", "black", "--decoding", "as-shown", "--split-seed", "3"]
    experiment, _ = parse(RECIPES["photographs"](), words)
    assert load_data(experiment.data, 0).name == "cluttered-digits"


def test_how_a_papers_files_are_decoded_does_not_follow_to_another_data_set():
    recipe = next(name for name in RECIPES if RECIPES[name]().data.decoding is not None)
    assert parse(RECIPES[recipe](), [])[0].data.decoding == "as-stored"
    assert parse(RECIPES[recipe](), ["--data", "folder:there"])[0].data.decoding == "as-stored"
    assert parse(RECIPES[recipe](), ["--data", "cifar100"])[0].data.decoding is None


def test_weights_that_are_asked_for_and_not_read_are_named(capsys: pytest.CaptureFixture[str]):
    arguments = ["--tiny", "--student", "resnet8@one.pt", "--teacher", "resnet14@two.pt"]
    parse(RECIPES["digits"](), arguments)
    said = capsys.readouterr().out
    for role, name in (("student", "resnet8@one.pt"), ("teacher", "resnet14@two.pt")):
        assert f"note: --tiny tries the {role} out with random weights: those of {name} are not read" in said
    parse(RECIPES["digits"](), ["--tiny", "--student", "resnet8"])
    assert "random weights" not in capsys.readouterr().out
