"""Folders of images: their classes, their splits, and their names."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.folders import CLEAN, RED, unsplit, write_folder

from attention_transfer.data import load
from attention_transfer.data.names import shown
from attention_transfer.data.pipeline import image_files
from attention_transfer.data.pipeline.image_files import Form, delivered, stored
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
    assert "test has no images in folders of the classes and is left out: val is the test split" in dataset.notes[0]


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
    said = f"note: {tmp_path} sets no images aside: 8 of 37 are test images and no training images, 20% of each class"
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
    assert any("holds a single class, only, so that there is nothing to classify" in note for note in dataset.notes)
    with pytest.raises(ValueError, match=r"holds a single class, only, so that there is nothing to classify: give"):
        load_data(Data(f"folder:{tmp_path}", image_size=16), 0)


def test_a_class_may_be_called_train(tmp_path: Path):
    dataset = load(unsplit(tmp_path, car=5, plane=5, train=5), image_size=16)
    assert dataset.classes == ("car", "plane", "train")


# ---------------------------------------------------------------- one folder


def test_classes_take_turns_in_training_and_keep_their_order_in_test(photographs: Path):
    dataset = load(f"folder:{photographs}", image_size=80)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 1] * 6
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert load(f"folder:{photographs}", image_size=80, train_limit=4).train.labels.tolist() == [0, 1, 0, 1]
    assert dataset.photographs
    assert dataset.test.images.shape == (4, 80, 80, 3)


def test_small_images_are_kept_whole(photographs: Path):
    dataset = load(f"folder:{photographs}", image_size=32)
    assert not dataset.photographs
    assert dataset.train.images.shape == (12, 32, 32, 3)
    assert dataset.train.sizes is None


def test_photographs_have_224_pixels_unless_asked_otherwise(photographs: Path):
    assert load(f"folder:{photographs}", train_limit=2).image_size == 224


def test_files_are_scaled_and_cut_as_pil_does_it(tmp_path: Path, write_image: Callable[..., None]):
    write_image(tmp_path / "a.png", 90, 50)
    image = Image.open(tmp_path / "a.png")
    larger = image.resize((round(90 * 91 / 50), 91), Image.Resampling.BILINEAR)
    left, top = (larger.width - 80) // 2, (91 - 80) // 2
    expected = np.asarray(larger.crop((left, top, left + 80, top + 80)))
    assert np.array_equal(delivered(80, photographs=True).read(tmp_path / "a.png"), expected)
    assert np.array_equal(stored(80, photographs=True).read(tmp_path / "a.png"), np.asarray(larger))


def test_very_long_images_are_cut_at_both_ends(tmp_path: Path, write_image: Callable[..., None]):
    write_image(tmp_path / "long.png", 10, 60)
    read = Form(10, None).read(tmp_path / "long.png")
    assert np.array_equal(read, np.asarray(Image.open(tmp_path / "long.png"))[20:40])


def test_grey_and_transparent_images_become_colour(tmp_path: Path):
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (20, 20), 7 if mode in ("L", "P") else None).save(path)
        assert Form(20, 20).read(path).shape == (20, 20, 3)


def test_a_few_unreadable_images_are_named_and_left_out(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    broken = photographs / "train" / "cat" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:-300])
    (photographs / "train" / "cat" / "3.png").write_text("no image")
    whole = 12
    for budget in (image_files.MEMORY_BUDGET, 0):
        monkeypatch.setattr(image_files, "MEMORY_BUDGET", budget)
        with pytest.raises(ValueError, match=r"2 of 12 images in .*train cannot be decoded, more than 1%.*cat/1.jpg"):
            load(f"folder:{photographs}", image_size=80)
        with monkeypatch.context() as lenient:
            lenient.setattr(image_files, "UNREADABLE_SHARE", 0.2)
            dataset = load(f"folder:{photographs}", image_size=80)
        assert len(dataset.train) == len(dataset.train.images) == whole - 2
        assert dataset.train.labels.tolist() == [0, 1, 1, 0, 1, 1, 0, 1, 0, 1]
        message = capsys.readouterr().err
        assert "2 of 12 images in" in message
        assert str(broken) in message


def test_only_ten_of_many_unreadable_images_are_named(tmp_path: Path, write_image: Callable[..., None]):
    for part in ("train", "val"):
        write_image(tmp_path / part / "a" / "good.png", 20, 20)
    for i in range(15):
        (tmp_path / "train" / "a" / f"bad{i:02}.png").write_text("")
    with pytest.raises(ValueError, match=r"15 of 16 .*bad00.png.*bad09.png and 5 more$"):
        load(f"folder:{tmp_path}", image_size=16)


def test_a_file_that_breaks_later_is_named(photographs: Path, monkeypatch: pytest.MonkeyPatch):
    from attention_transfer.data import loader

    monkeypatch.setattr(image_files, "MEMORY_BUDGET", 0)
    dataset = load(f"folder:{photographs}", image_size=80)
    (photographs / "train" / "cat" / "0.png").write_text("")
    with pytest.raises(ValueError, match=r"cat/0.png is not a complete image"):
        list(loader(dataset.train, dataset, batch_size=4, train=False).epoch(0))


def test_folders_of_the_wrong_shape_are_refused(photographs: Path, tmp_path: Path):
    (photographs / "val" / "dog").rename(photographs / "val" / "fox")
    with pytest.raises(ValueError, match="only train has dog; only val has fox"):
        load(f"folder:{photographs}")
    for file in (photographs / "val" / "fox").iterdir():
        file.unlink()
    (photographs / "val" / "fox").rename(photographs / "val" / "dog")
    with pytest.raises(ValueError, match="val/dog holds no images"):
        load(f"folder:{photographs}")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"there is no folder .*empty/train"):
        load(f"folder:{empty}")
    (empty / "train").mkdir()
    with pytest.raises(ValueError, match="empty/train is empty"):
        load(f"folder:{empty}")


def test_without_labels_a_folder_is_read_whole(photographs: Path):
    dataset = load(f"folder:{photographs / 'train'}", image_size=32, labelled=False)
    assert not dataset.labelled
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (12, 0, 1)
    limited = load(f"folder:{photographs / 'train'}", image_size=32, train_limit=5, labelled=False)
    assert len(limited.train) == 5
    labelled = load(f"folder:{photographs}", image_size=32)
    assert labelled.labelled
    assert np.array_equal(dataset.train.images[:6], labelled.train.images[::2])
    (photographs / "empty").mkdir()
    for labels in (True, False):
        with pytest.raises(ValueError, match=r"there is no folder .*train: a data folder holds train/ and val/"):
            load(f"folder:{photographs / 'empty'}", labelled=labels)


def test_images_in_no_class_folders_have_no_labels(photographs: Path):
    for place in ("train/cat", "val/dog"):
        assert not load(f"folder:{photographs / place}", image_size=32).labelled


# ---------------------------------------------------------------- names

# ---------------------------------------------------------------- names of classes


def test_names_that_are_no_text_are_refused_at_once(tmp_path: Path):
    write_folder(tmp_path, CLEAN)
    strange = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / "train" / strange).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system takes text only")
    with pytest.raises(
        ValueError, match=r"the name of the class folder .*train/caf\\udce9 is no text in UTF-8"
    ) as said:
        load(f"folder:{tmp_path}", image_size=16)
    str(said.value).encode()
    (tmp_path / "train" / strange).rename(tmp_path / strange)
    write_folder(tmp_path / strange, CLEAN)
    with pytest.raises(ValueError, match=r"caf\\udce9 is no text in UTF-8, and no run could be recorded"):
        load(f"folder:{tmp_path / strange}", image_size=16)


def test_files_whose_names_are_no_text_are_read_and_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    place, strange = write_folder(tmp_path, CLEAN), os.fsdecode(b"caf\xe9")
    try:
        RED.save(tmp_path / "train" / "a" / f"{strange}.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes text only")
    (tmp_path / "train" / "a" / f"{strange}2.png").write_bytes(b"")
    monkeypatch.setattr(image_files, "UNREADABLE_SHARE", 0.5)
    assert len(load(place, image_size=16).train) == 3
    assert "caf\\udce92.png" in capsys.readouterr().err


def test_names_that_move_the_cursor_are_shown_escaped(tmp_path: Path):
    names = ["two\nlines", "red\x1b[31m", "back\rwards", "turned\u202eleft", "b\x9bell", "grüße 日本 👩‍🚀"]
    contents = {f"{part}/{name}/0.png": RED for part in ("train", "val") for name in names}
    dataset = load(write_folder(tmp_path, contents), image_size=16)
    assert dataset.classes == (
        "back\\rwards",
        "b\\x9bell",
        "grüße 日本 👩‍🚀",
        "red\\x1b[31m",
        "turned\\u202eleft",
        "two\\nlines",
    )
    assert json.loads(json.dumps(dataset.classes)) == list(dataset.classes)
    assert shown(Path("a\tb")) == "a\\tb"


def test_classes_that_differ_in_case_only_are_two_and_said(tmp_path: Path):
    if (tmp_path / "x").mkdir() or (tmp_path / "X").exists():
        pytest.skip("this file system does not tell cases apart")
    dataset = load(write_folder(tmp_path, {**CLEAN, "train/A/0.png": RED, "val/A/0.png": RED}), image_size=16)
    assert dataset.classes == ("A", "a", "b")
    assert dataset.notes == ("the classes A and a differ in case only and count as two",)


# ---------------------------------------------------------------- paths


def test_paths_may_be_written_in_many_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a$b", "$HOME", "with space", "日本", "x:y", "~"):
        write_folder(tmp_path / name, CLEAN)
        for path in (tmp_path / name, f"{tmp_path / name}/"):
            assert len(load(f"folder:{path}", image_size=16).train) == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "with space"))
    for path in ("a$b", "./with space", "日本/", "../" + tmp_path.name + "/a$b"):
        assert len(load(f"folder:{path}", image_size=16).train) == 2
    (tmp_path / "~" / "train" / "b").rename(tmp_path / "~" / "train" / "c")
    (tmp_path / "~" / "val" / "b").rename(tmp_path / "~" / "val" / "c")
    assert load("folder:~", image_size=16).classes == ("a", "c")  # really called so
    (tmp_path / "~").rename(tmp_path / "moved")
    assert load("folder:~", image_size=16).classes == ("a", "b")
    with pytest.raises(ValueError, match="~nobody-of-that-name"):
        load("folder:~nobody-of-that-name/x")
    with pytest.raises(ValueError, match=r"a…' cannot be looked up: .*"):
        load(f"folder:{'a' * 5000}")
