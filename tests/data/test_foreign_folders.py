"""Folders as other people hand them on: links that lead astray, parts and classes in unusual places."""

from pathlib import Path

import pytest
from tests.folders import CLEAN, RED, Content, write_folder

from attention_transfer.data import load


def links(place: Path, **targets: str) -> None:
    """Links in a folder, to where they lead."""
    for name, target in targets.items():
        (place / name).symlink_to(target)


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("target", ["..", ".", "../../{root}", "../train"])
def test_a_class_that_leads_back_to_what_holds_it_is_refused(tmp_path: Path, target: str):
    """It would learn from the images to measure on, under a class that nobody meant."""
    place = write_folder(tmp_path, CLEAN)
    links(tmp_path / "train", c=target.format(root=tmp_path.name))
    with pytest.raises(ValueError, match=r"train/c is a link to .*, the folder that holds it, .*: remove the link"):
        load(place, image_size=16)


def test_a_link_back_is_found_below_a_link_to_the_data_too(tmp_path: Path):
    write_folder(tmp_path / "real" / "deep", CLEAN)
    links(tmp_path / "real" / "deep" / "train", c=str(tmp_path / "linked"))
    links(tmp_path, linked="real/deep")
    with pytest.raises(ValueError, match=r"train/c is a link to .*deep, the folder that holds it"):
        load(f"folder:{tmp_path / 'linked'}", image_size=16)


def test_a_class_that_is_a_link_to_nothing_is_refused_and_not_forgotten(tmp_path: Path):
    place = write_folder(tmp_path, CLEAN)
    links(tmp_path / "train", c=str(tmp_path / "unmounted"))
    with pytest.raises(ValueError, match=r"train/c is a link to nothing, .*unmounted: bring back .*, or remove it"):
        load(place, image_size=16)


def test_one_folder_under_two_classes_is_said(tmp_path: Path):
    place = write_folder(tmp_path, CLEAN)
    links(tmp_path / "train", c="a")
    assert "train/a and" in (note := load(place, image_size=16).notes[0])
    assert "train/c are the same folder, whose images count once for each name" in note


@pytest.mark.parametrize("inside", [False, True])
def test_images_that_are_learned_from_and_measured_are_said(tmp_path: Path, inside: bool):
    place = write_folder(tmp_path, {**CLEAN, "train/c/0.png": RED, "train/c/more/0.png": RED})
    if inside:
        links(tmp_path / "val" / "b", more="../../train/c/more")
    else:
        links(tmp_path / "val", c="../train/c")
    (note,) = (note for note in load(place, image_size=16).notes if "same folder" in note)
    assert "what is measured is what is learned from" in note


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "eval"),
        ("train", "validate"),
        ("train", "evaluation"),
        ("training_set", "test_set"),
        ("trainset", "valset"),
        ("train_images", "test_images"),
        ("images-train", "images-val"),
        ("Training Data", "Validation Data"),
    ],
)
def test_parts_are_known_with_other_words_beside_them(tmp_path: Path, train: str, held_out: str):
    contents = {name.replace("train", train).replace("val", held_out): image for name, image in CLEAN.items()}
    dataset = load(write_folder(tmp_path, contents), image_size=16)
    assert (len(dataset.train), len(dataset.test), dataset.test_is, dataset.notes) == (2, 2, held_out, ())


def test_a_plain_name_goes_before_one_with_words(tmp_path: Path):
    dataset = load(write_folder(tmp_path, {**CLEAN, "train_images/x/0.png": RED}), image_size=16)
    assert len(dataset.train) == 2
    assert any("not read, as their names are not those of" in note and "train_images" in note for note in dataset.notes)


@pytest.mark.parametrize("beside", ["extra/a/0.png", "hold\x1bout/0.png"])
def test_images_in_folders_beside_the_parts_are_said(tmp_path: Path, beside: str):
    contents = {**CLEAN, beside: RED, "annotations/0.txt": b"x", "logs/old/0.txt": b"x"}
    (note,) = load(write_folder(tmp_path, contents), image_size=16).notes
    assert note.startswith("not read, as their names are not those of train, val or test: ")
    assert "annotations" not in note
    assert "\x1b" not in note


def test_parts_inside_of_classes_are_refused_with_the_way_out(tmp_path: Path):
    contents: dict[str, Content] = {f"{name}/{part}/0.png": RED for name in ("cat", "dog") for part in ("train", "val")}
    with pytest.raises(ValueError, match=r"but .*cat/train and 1 more: .* move the classes into them"):
        load(write_folder(tmp_path, contents), image_size=16)


def test_classes_one_folder_too_deep_are_said(tmp_path: Path):
    contents = {name.replace("/", "/images/", 1): image for name, image in CLEAN.items()}
    (note,) = load(write_folder(tmp_path, contents), image_size=16).notes
    assert "a single class, images, which nothing can be told from; if a, b are the classes, move them to" in note


@pytest.mark.parametrize("name", ["n\nl", " a b ", "$HOME", "ünï", "c\x1b[31m", "0.png", "\u202ecba", "a@b#c", "-x"])
def test_any_name_is_a_class_and_shows_as_one_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    dataset = load(write_folder(tmp_path, {**CLEAN, f"train/{name}/0.png": RED}), image_size=16)
    assert dataset.num_classes == 3
    shown = "".join(dataset.classes) + capsys.readouterr().err.replace("\n", "")
    assert not {"\n", "\x1b", "\u202e"} & set(shown)
