from pathlib import Path

import numpy as np
import pytest
from tests.folders import CLEAN, RED, unsplit, write_folder

from attention_transfer.data import load
from attention_transfer.data.pipeline import image_files
from attention_transfer.experiment import Data
from attention_transfer.training.prepare import load_data

# ---------------------------------------------------------------- names of splits


@pytest.mark.parametrize("train", ["train", "training", "Train", "TRAINING"])
@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "dev", "test", "testing", "Val", "TEST"])
def test_parts_are_known_by_what_people_call_them(tmp_path: Path, train: str, held_out: str):
    contents = {name.replace("train", train).replace("val", held_out): image for name, image in CLEAN.items()}
    dataset = load(write_folder(tmp_path, contents), image_size=16)
    assert (len(dataset.train), len(dataset.test), dataset.validation) == (2, 2, None)
    assert (dataset.test_is, dataset.notes) == (held_out, ())


def test_of_two_parts_one_is_for_validation(tmp_path: Path):
    test = dict.fromkeys(("test/a/0.png", "test/a/1.png", "test/b/0.png"), RED)
    dataset = load(write_folder(tmp_path, {**CLEAN, **test}), image_size=16)
    assert dataset.validation is not None
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (2, 2, 3)
    assert dataset.test_is == "test"
    with pytest.raises(ValueError, match=r"brings 2 validation images of its own: leave out validation_fraction=0.5"):
        load(f"folder:{tmp_path}", image_size=16, validation_fraction=0.5)
    limited = load(f"folder:{tmp_path}", image_size=16, test_limit=1)
    assert limited.validation is not None
    assert (len(limited.validation), len(limited.test)) == (1, 1)


@pytest.mark.parametrize("unlabelled", ["test/0.png", "test/unknown/0.png"])
def test_test_images_whose_classes_nobody_tells_are_left_out(tmp_path: Path, unlabelled: str):
    dataset = load(write_folder(tmp_path, {**CLEAN, unlabelled: RED}), image_size=16)
    assert (len(dataset.test), dataset.validation, dataset.test_is) == (2, None, "val")
    assert "test has no images in folders of the classes and is left out: val is measured on" in dataset.notes[0]


def test_two_folders_for_the_same_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds val and valid, and only one of them can be its validation images"):
        load(write_folder(tmp_path, {**CLEAN, "valid/a/0.png": RED}), image_size=16)


def test_measured_classes_may_be_fewer_and_never_others(tmp_path: Path):
    dataset = load(write_folder(tmp_path, {**CLEAN, "train/c/0.png": RED}), image_size=16)
    assert (dataset.classes, dataset.test.labels.tolist()) == (("a", "b", "c"), [0, 1])
    assert dataset.notes == ("no images are measured of 1 of 3 classes: c",)
    write_folder(tmp_path, {"val/d\x1b[31m/0.png": RED, "val/C/0.png": RED})
    with pytest.raises(
        ValueError, match=r"\(only train has c; only val has C, d\\x1b\[31m\) \(c and C differ in case\)"
    ):
        load(f"folder:{tmp_path}", image_size=16)


def test_one_spelling_of_accents_is_as_good_as_another(tmp_path: Path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    contents = {f"train/{composed}/0.png": RED, "train/b/0.png": RED, f"val/{decomposed}/0.png": RED}
    dataset = load(write_folder(tmp_path, {**contents, "val/b/0.png": RED}), image_size=16)
    assert dataset.test.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"two folders called .*, which differ only in how accents or"):
        load(write_folder(tmp_path, {f"train/{decomposed}/0.png": RED}), image_size=16)


# ---------------------------------------------------------------- no split at all


@pytest.mark.parametrize("inside", ["", "train"])
def test_a_fifth_of_each_class_is_set_aside_where_nobody_did(
    tmp_path: Path, inside: str, capsys: pytest.CaptureFixture[str]
):
    unsplit(tmp_path / inside, a=10, b=3, c=1, d=23)
    place = f"folder:{tmp_path}"
    dataset = load(place, image_size=16)
    assert np.bincount(dataset.test.labels).tolist() == [2, 1, 0, 5]
    assert np.bincount(dataset.train.labels).tolist() == [8, 2, 1, 18]
    said = f"note: {tmp_path} sets no images aside: 8 of 37 are measured on and not learned from, 20% of each class"
    assert said in capsys.readouterr().err
    assert any("chosen by split_seed 0" in note for note in dataset.notes)
    assert "no images are measured of 1 of 4 classes: c" in dataset.notes

    def images(split: image_files.Split) -> set[tuple[int, int]]:
        assert isinstance(split.images, np.ndarray)
        return set(zip(split.labels.tolist(), split.images[:, 0, 0, 0].tolist(), strict=True))

    assert images(dataset.train).isdisjoint(images(dataset.test))
    assert len(images(dataset.train) | images(dataset.test)) == 37
    # The seed of a training must not move what it is measured on.
    assert images(load(place, image_size=16, seed=5).test) == images(dataset.test)
    assert images(load(place, image_size=16, split_seed=5).test) != images(dataset.test)


def test_one_image_of_each_class_cannot_be_split(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds one image of each class, of which none can be set aside to measure"):
        load(unsplit(tmp_path, a=1, b=1), image_size=16)


def test_a_seed_of_a_split_that_is_there_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"sets its own images aside, on which split_seed 3 has no effect"):
        load(write_folder(tmp_path, CLEAN), image_size=16, split_seed=3)


def test_the_folder_above_is_not_taken_for_classes(tmp_path: Path):
    write_folder(tmp_path / "flowers", CLEAN)
    with pytest.raises(
        ValueError, match=r"there is no folder .*/train, but .*/flowers/train: give the folder that holds"
    ):
        load(f"folder:{tmp_path}", image_size=16)
    write_folder(tmp_path / "cars", CLEAN)
    with pytest.raises(ValueError, match=r"but .*/cars/train: give the folder that holds train/ and val/"):
        load(f"folder:{tmp_path}", image_size=16)


def test_a_part_without_training_images_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"there is no folder .*train: a data folder holds train/ and val/"):
        load(write_folder(tmp_path, {"val/a/0.png": RED, "val/b/0.png": RED}), image_size=16)


def test_parts_without_class_folders_are_named(tmp_path: Path):
    write_folder(tmp_path, {"train/a/0.png": RED, "train/b/0.png": RED, "val/0.png": RED, "val/1.png": RED})
    with pytest.raises(
        ValueError, match=r"val holds 2 images, but in no folders of classes: it should hold one folder"
    ):
        load(f"folder:{tmp_path}", image_size=16)
    write_folder(tmp_path / "flat", {"train/0.png": RED, "val/1.png": RED})
    with pytest.raises(ValueError, match=r"train holds 1 images, but in no folders of classes"):
        load(f"folder:{tmp_path / 'flat'}", image_size=16)
    # Where no labels are needed, the training images are.
    assert len(load(f"folder:{tmp_path / 'flat'}", image_size=16, labelled=False).train) == 1


def test_a_part_that_is_the_training_images_is_said(tmp_path: Path):
    write_folder(tmp_path, {"train/a/0.png": RED, "train/b/0.png": RED})
    (tmp_path / "val").symlink_to(tmp_path / "train")
    (note,) = load(f"folder:{tmp_path}", image_size=16).notes
    assert "val is the same folder as" in note


def test_a_single_class_is_said_and_refused_where_labels_are_learned(tmp_path: Path):
    dataset = load(unsplit(tmp_path, only=5), image_size=16)
    assert any("holds a single class, only, which nothing can be told from" in note for note in dataset.notes)
    with pytest.raises(ValueError, match=r"holds a single class, only, which cannot be told from anything: give"):
        load_data(Data(f"folder:{tmp_path}", image_size=16), 0)


def test_a_class_may_be_called_train(tmp_path: Path):
    dataset = load(unsplit(tmp_path, car=5, plane=5, train=5), image_size=16)
    assert dataset.classes == ("car", "plane", "train")
