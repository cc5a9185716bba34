import os
from pathlib import Path

import numpy as np
import pytest
from tests.folders import CLEAN, RED, write_folder

from attention_transfer.data import load
from attention_transfer.data.pipeline.formats import ENDINGS, endings, formats

# ---------------------------------------------------------------- what is passed by, and what is named


@pytest.mark.parametrize(
    "leftover",
    [
        "train/a/.ipynb_checkpoints/0-checkpoint.png",
        "train/a/deep/.thumbnails/0.png",
        "train/a/@eaDir/0.png/SYNOFILE_THUMB_M.jpg",
        "train/a/._0.png",
        "train/._b/0.png",
        "train/__MACOSX/a/0.png",
        "__MACOSX/train/a/0.png",
        "train/a/.DS_Store",
        "train/.DS_Store",
        "train/a/Thumbs.db",
        "train/a/desktop.ini",
        "train/#recycle/0.png",
        "train/@Recycle/0.png",
        "train/lost+found/0.png",
        "train/$RECYCLE.BIN/0.png",
        "train/System Volume Information/0.png",
        "train/a/~$0.png",
        "val/.ipynb_checkpoints/0.png",
        "val/@eaDir/a/0.png",
        ".git/x.png",
    ],
)
def test_what_systems_leave_behind_is_passed_by(tmp_path: Path, leftover: str, capsys: pytest.CaptureFixture[str]):
    content = RED if leftover.endswith(("png", "jpg")) else b"x"
    dataset = load(write_folder(tmp_path, {**CLEAN, leftover: content}), image_size=16)
    assert (dataset.classes, len(dataset.train), len(dataset.test)) == (("a", "b"), 2, 2)
    assert dataset.notes == ()
    assert capsys.readouterr().err == ""


def test_a_data_folder_below_a_hidden_one_is_read(tmp_path: Path):
    assert len(load(write_folder(tmp_path / ".cache" / "@eaDir", CLEAN), image_size=16).train) == 2


@pytest.mark.parametrize("ending", sorted(endings()))
def test_every_ending_of_an_image_is_read_in_any_case(tmp_path: Path, ending: str):
    # What is in a file is found by its content; TGA has no signature.
    for name in (f"1{ending}", f"2{ending.upper()}"):
        RED.save((tmp_path / name), format="tga" if ending in ENDINGS["TGA"] else "png")
        path = tmp_path / "train" / "a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).rename(path)
    assert len(load(write_folder(tmp_path, CLEAN), image_size=16).train) == 4


def test_formats_that_this_pillow_cannot_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from attention_transfer.data.pipeline import formats as module

    monkeypatch.setattr(module.features, "check", lambda name: name != "avif")
    for cached in (formats, endings):
        cached.cache_clear()
    try:
        dataset = load(write_folder(tmp_path, {**CLEAN, "train/a/1.avif": b"x"}), image_size=16)
    finally:
        for cached in (formats, endings):
            cached.cache_clear()
    assert "1 .avif" in dataset.notes[0]


def test_files_that_are_no_images_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    strange = [f"train/a/{i}.HEIC" for i in range(3)] + ["train/a/deep/x.psd", "train/b/y.eps", "train/b/README"]
    dataset = load(
        write_folder(tmp_path, {**CLEAN, **dict.fromkeys(strange, b"x"), "val/b/z.svg": b"x"}), image_size=16
    )
    train, test = dataset.notes
    assert train.startswith(f"6 files in {tmp_path / 'train'} cannot be read as images and are left out (3 .heic, ")
    assert all(word in train for word in ("1 .eps", "1 .psd", "1 without an ending", "convert images"))
    assert test.startswith(f"1 file in {tmp_path / 'val'} cannot be read as images and is left out (1 .svg; ")
    assert capsys.readouterr().err == f"note: {train}\nnote: {test}\n"


def test_a_class_that_holds_other_files_only_is_refused_with_their_kind(tmp_path: Path):
    with pytest.raises(ValueError, match=r"train/c holds no images \(in them is 2 .heic\): add some, or remove"):
        load(write_folder(tmp_path, {**CLEAN, "train/c/0.heic": b"x", "train/c/1.heic": b"x"}), image_size=16)


def test_images_beside_class_folders_are_named(tmp_path: Path):
    dataset = load(write_folder(tmp_path, {**CLEAN, "train/stray.png": RED, "train/other\n.png": RED}), image_size=16)
    assert len(dataset.train) == 2
    (note,) = dataset.notes
    assert "2 images lie in" in note
    assert "belong to no class and are left out: other\\n.png, stray.png" in note


def test_files_in_subfolders_belong_to_the_class(tmp_path: Path):
    dataset = load(
        write_folder(tmp_path, {**CLEAN, "train/a/x/y/1.png": RED, "train/a/0.jpg/1.png": RED}), image_size=16
    )
    assert dataset.train.labels.tolist() == [0, 1, 0, 0]


# ---------------------------------------------------------------- links


def test_links_to_folders_and_files_are_followed(tmp_path: Path):
    place = write_folder(tmp_path / "data", CLEAN)
    write_folder(tmp_path / "else", {"c/0.png": RED, "c/deep/1.png": RED, "more/2.png": RED, "x.png": RED})
    data = tmp_path / "data"
    (data / "train" / "c").symlink_to(tmp_path / "else" / "c")
    (data / "train" / "a" / "more").symlink_to(tmp_path / "else" / "more")
    (data / "train" / "b" / "1.png").symlink_to(tmp_path / "else" / "x.png")
    dataset = load(place, image_size=16)
    assert dataset.classes == ("a", "b", "c")
    assert np.bincount(dataset.train.labels).tolist() == [2, 2, 2]
    (tmp_path / "link").symlink_to(data)
    assert len(load(f"folder:{tmp_path / 'link'}", image_size=16).train) == 6


def test_loops_of_links_end(tmp_path: Path):
    place = write_folder(tmp_path, CLEAN)
    (tmp_path / "train" / "a" / "again").symlink_to(tmp_path / "train" / "a")
    (tmp_path / "train" / "b" / "up").symlink_to(tmp_path)
    dataset = load(place, image_size=16)
    assert dataset.train.labels.tolist() == [0, 1]
    (tmp_path / "val" / "a" / "self.png").symlink_to(tmp_path / "val" / "a" / "self.png")
    with pytest.raises(
        ValueError,
        match=r"1 of 3 images in .*val cannot be decoded, .*first: Too many levels of symbolic links\).*self.png",
    ):
        load(place, image_size=16)


def test_links_to_nothing_are_named(tmp_path: Path):
    place = write_folder(tmp_path, CLEAN)
    (tmp_path / "train" / "a" / "gone.png").symlink_to(tmp_path / "unmounted" / "1.png")
    with pytest.raises(ValueError, match=r"1 of 3 images in .*train cannot be decoded, .*a/gone.png"):
        load(place, image_size=16)


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    place = write_folder(tmp_path, CLEAN)
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")
    assert len(load(place, image_size=16).train) == 2
