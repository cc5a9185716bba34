from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.folders import CLEAN, RED, write_folder

from attention_transfer.data import load
from attention_transfer.data.pipeline import image_files

# ---------------------------------------------------------------- broken images


def test_a_class_whose_images_are_all_broken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = write_folder(tmp_path, {**CLEAN, "train/c/only.png": b"", "val/c/0.png": RED})
    monkeypatch.setattr(image_files, "UNREADABLE_SHARE", 0.5)
    for budget in (image_files.MEMORY_BUDGET, 0):
        monkeypatch.setattr(image_files, "MEMORY_BUDGET", budget)
        with pytest.raises(ValueError, match=r"none of the images in .*train of class c can be decoded: .*c/only.png"):
            load(place, image_size=16)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it holds nothing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it holds an HEIC photograph"),
        (b"%PDF-1.7\n", "it holds a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it holds a PostScript document"),
        (b"\n<!DOCTYPE html><html>404", "it holds a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it holds an SVG or XML document"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it holds a pointer of Git LFS"),
        (b"PK\x03\x04", "it holds a ZIP archive"),
        (b"hello", "what it holds is none that Pillow reads"),
    ],
)
def test_what_a_file_holds_that_is_called_an_image_is_said(tmp_path: Path, content: bytes, words: str):
    place = write_folder(tmp_path, {**CLEAN, "train/a/1.jpg": content})
    with pytest.raises(ValueError, match=rf"1 of 3 images .* more than 1% \(of the first: {words}.*a/1.jpg"):
        load(place, image_size=16)


def test_unsuitable_images_are_refused_however_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    deep = Image.fromarray(np.full((16, 16), 1000, dtype=np.int32))
    place = write_folder(tmp_path, {**CLEAN, "train/a/1.tif": lambda path: deep.save(path)})
    monkeypatch.setattr(image_files, "UNREADABLE_SHARE", 0.9)
    for budget in (image_files.MEMORY_BUDGET, 0):
        monkeypatch.setattr(image_files, "MEMORY_BUDGET", budget)
        with pytest.raises(ValueError, match=r"a/1.tif holds 32-bit integers from 1000 to 1000"):
            load(place, image_size=16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(ValueError, match=r"a/0.png has 256 pixels, and Pillow decodes images of up to 200 pixels"):
        load(place, image_size=16)


def test_what_is_seen_does_not_depend_on_where_images_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from attention_transfer.data import loader

    turned = Image.Exif()
    turned[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (40, 24, 4), dtype=np.uint8)
    picture = Image.fromarray(noise)
    place = write_folder(
        tmp_path,
        {
            **CLEAN,
            "train/a/1.png": lambda path: picture.save(path, exif=turned),
            "val/a/1.png": lambda path: picture.save(path, exif=turned),
        },
    )
    delivered = []
    for budget in (image_files.MEMORY_BUDGET, 0):
        monkeypatch.setattr(image_files, "MEMORY_BUDGET", budget)
        dataset = load(place, image_size=80, background="#102030")
        splits = ((dataset.train, True), (dataset.test, False))
        loaders = [loader(split, dataset, batch_size=3, train=train) for split, train in splits]
        delivered.append([batch.image for each in loaders for batch in each.epoch(0)])
    assert all((first == second).all() for first, second in zip(*delivered, strict=True))
    other = load(place, image_size=80)
    assert isinstance(other.train.images, tuple)
    assert (next(loader(other.test, other, batch_size=3, train=False).epoch(0)).image != delivered[0][-1]).any()


# ---------------------------------------------------------------- settings of no effect


def test_settings_that_change_nothing_are_refused(tmp_path: Path):
    for settings in ({"background": "black"}, {"decoding": "as-shown"}, {"split_seed": 1}):
        with pytest.raises(ValueError, match=rf"{next(iter(settings))} has no effect on cluttered-digits"):
            load("cluttered-digits", **settings)
    place = write_folder(tmp_path, CLEAN)
    with pytest.raises(ValueError, match="background black does not show where images are read as-stored"):
        load(place, decoding="as-stored", background="black")
    with pytest.raises(ValueError, match="background must be an opaque colour"):
        load(place, background="nocolour")
