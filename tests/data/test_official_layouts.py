"""Data sets as their owners publish them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from attention_transfer.data import load


def test_tiny_imagenet_is_read_with_its_boxes(tiny: Path):
    dataset = load("tiny-imagenet", root=tiny)
    assert dataset.classes == ("trilobite", "goldfish")
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert dataset.test.labels.tolist() == [1]
    assert dataset.train.images.shape == (6, 64, 64, 3)
    assert dataset.test.boxes.tolist() == [[1, 2, 4, 5]]
    assert np.isnan(dataset.train.boxes[0]).all()  # a box without height
    assert dataset.train.boxes[2].tolist() == [1, 10, 63, 59]
    assert load("tiny-imagenet", root=tiny / "tiny-imagenet-200", image_size=32).train.boxes[2].tolist() == [
        0.5,
        5,
        31.5,
        29.5,
    ]


def test_a_damaged_table_is_refused(tiny: Path, birds: Path):
    (tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t1\t2\t3\n")
    with pytest.raises(ValueError, match=r"row 0 of .*val_annotations.txt should end with the four sides of a box"):
        load("tiny-imagenet", root=tiny)
    (birds / "CUB_200_2011" / "classes.txt").write_text("1 001.Black_footed_Albatross\n")
    with pytest.raises(ValueError, match=r"gives image 4 class 2, which .*classes.txt does not list"):
        load("cub200", root=birds)


@pytest.mark.parametrize("side", ["²", "1e3", "99999", "-1", "٣", "nan", ""])
def test_sides_of_boxes_are_short_whole_numbers(tiny: Path, side: str):
    (tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text(f"val_0.JPEG\tn01\t1\t2\t3\t{side}\n")
    with pytest.raises(ValueError, match=r"row 0 of .*val_annotations.txt should end with the four sides of a box"):
        load("tiny-imagenet", root=tiny)


def test_an_incomplete_tiny_imagenet_is_refused(tiny: Path, tmp_path: Path):
    (tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt").unlink()
    with pytest.raises(ValueError, match=r"no file .*val_annotations.txt"):
        load("tiny-imagenet", root=tiny)
    with pytest.raises(ValueError, match=r"no folder tiny-imagenet-200 in .*: unpack http.*or give the root"):
        load("tiny-imagenet", root=tmp_path / "elsewhere")


def test_birds_are_read_with_their_official_split(birds: Path):
    dataset = load("cub200", root=birds)
    assert dataset.classes == ("Black footed Albatross", "Auk")
    assert dataset.train.labels.tolist() == [0, 1, 0, 1]
    assert dataset.test.labels.tolist() == [0]
    assert dataset.test.images.shape == (1, 224, 224, 3)
    assert dataset.train.images.shape == (4, 256, 512, 3)
    # 100 pixels become 256, of which the central 224 are seen: (512 − 224) / 2 = 144 are cut left, 16 above
    expected = np.array([60, 20, 100, 70]) * 2.56 - [144, 16, 144, 16]
    np.testing.assert_allclose(dataset.test.boxes[0], expected.clip(0, 224), rtol=1e-5)
    assert load("cub200", root=birds / "CUB_200_2011", train_limit=2).train.labels.tolist() == [0, 1]


def test_birds_are_not_turned_and_their_boxes_stay(birds: Path):
    before = load("cub200", root=birds)
    turned = Image.Exif()
    turned[0x0112] = 6
    said = turned.tobytes()
    for path in (birds / "CUB_200_2011" / "images").rglob("*.jpg"):
        whole = path.read_bytes()
        path.write_bytes(whole[:2] + b"\xff\xe1" + (len(said) + 2).to_bytes(2) + said + whole[2:])
        with Image.open(path) as file:
            assert file.getexif()[0x0112] == 6
    after = load("cub200", root=birds)
    assert np.array_equal(after.test.boxes, before.test.boxes)
    assert np.array_equal(after.test.images, before.test.images)
    assert np.array_equal(after.train.sizes, before.train.sizes)
    assert not after.decoding.as_shown


def test_a_box_outside_the_visible_part_is_unknown(birds: Path):
    (birds / "CUB_200_2011" / "bounding_boxes.txt").write_text(
        "".join(f"{i} 0.0 20.0 {50 if i == 3 else 60}.0 50.0\n" for i in range(1, 6))
    )
    dataset = load("cub200", root=birds)
    assert np.isnan(dataset.test.boxes).all()
    assert not np.isnan(dataset.train.boxes).any()


def test_incomplete_birds_are_refused(birds: Path):
    (birds / "CUB_200_2011" / "train_test_split.txt").write_text("1 1\n2 1\n")
    with pytest.raises(ValueError, match=r"train_test_split.txt says nothing of image 3 and 2 others"):
        load("cub200", root=birds)
    (birds / "CUB_200_2011" / "images.txt").unlink()
    with pytest.raises(ValueError, match=r"no file .*images.txt"):
        load("cub200", root=birds)


def test_stl10_is_read_column_by_column(stl10: Path):
    dataset = load("stl10", root=stl10)
    assert dataset.classes == tuple(f"class{i}" for i in range(10))
    assert (dataset.image_size, dataset.photographs) == (96, False)
    raw = (stl10 / "stl10_binary" / "test_X.bin").read_bytes()
    for i, channel, row, column in ((0, 0, 0, 0), (3, 1, 5, 90), (19, 2, 95, 1)):
        assert dataset.test.images[i, row, column, channel] == raw[((i * 3 + channel) * 96 + column) * 96 + row]
    assert dataset.train.images.shape == (30, 96, 96, 3)
    assert dataset.train.labels.tolist() == [7 * i % 10 for i in range(30)]
    for name in ("stl10_binary", "."):
        assert load("stl10", root=stl10 / name, image_size=32).image_size == 32


def test_stl10_agrees_with_torchvision(stl10: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda _: True)  # of the real files
    for part in ("train", "test"):
        theirs = datasets.STL10(stl10, split=part)
        ours = getattr(load("stl10", root=stl10), part)
        assert np.array_equal(ours.images, np.stack([np.asarray(image) for image, _ in theirs]))
        assert ours.labels.tolist() == [label for _, label in theirs]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train_X.bin", None, r"no file .*train_X.bin: the folder should be as stl10_binary.tar.gz unpacks it"),
        ("train_X.bin", b"abc", r"train_X.bin has 3 bytes, which are no images of 3 × 96 × 96: unpack"),
        ("train_X.bin", b"", r"train_X.bin has 0 bytes"),
        ("train_y.bin", b"\x01\x02", r"train_X.bin holds 30 images, but train_y.bin 2 labels: unpack"),
        ("test_y.bin", bytes([1, 11]), r"label 11 of image 1 in .*test_y.bin is outside 1…10"),
        ("test_y.bin", bytes([0]), r"label 0 of image 0 in .*test_y.bin is outside 1…10"),
        ("class_names.txt", b"cat\n", r"class_names.txt should name 10 classes, but names 1"),
    ],
)
def test_a_damaged_stl10_is_refused(stl10: Path, file: str, content: bytes | None, words: str):
    place = stl10 / "stl10_binary" / file
    place.unlink()
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load("stl10", root=stl10)


def test_an_absent_stl10_is_refused_saying_where_it_can_be_had(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no folder stl10_binary in .*: unpack stl10_binary.tar.gz of http"):
        load("stl10", root=tmp_path)


def test_scenes_are_read_with_their_official_split(scenes: Path):
    dataset = load("scenes", root=scenes)
    assert dataset.classes == ("airport_inside", "bar", "pantry")
    assert dataset.train.labels.tolist() == [0, 1, 2] * 3
    assert dataset.test.labels.tolist() == [2, 1, 0]
    assert dataset.test.images.shape == (3, 224, 224, 3)
    # 100 pixels become 256; the listed order within a class is kept: 122, 120 and 121 pixels wide.
    assert dataset.train.sizes.tolist()[::3] == [[256, 312], [256, 307], [256, 310]]
    assert dataset.photographs
    for root in (scenes / "scenes", (scenes / "scenes").rename(scenes / "indoorCVPR_09").parent):
        if root.is_dir():
            assert np.array_equal(load("scenes", root=root).test.images, dataset.test.images)


def test_scenes_may_lie_in_any_folder(scenes: Path):
    (scenes / "scenes").rename(scenes / "mit")
    assert len(load("scenes", root=scenes / "mit", image_size=64).test) == 3


def test_incomplete_scenes_are_refused(scenes: Path):
    place = scenes / "scenes"
    tested = (place / "TestImages.txt").read_text()
    for content, words in (
        (tested + "attic/1.jpg\n", r"TestImages.txt lists attic/1.jpg, of a class without training images"),
        ("bar.jpg\n", r"TestImages.txt should list CLASS/FILE in each line, but has 'bar.jpg'"),
        ("\n", r"TestImages.txt lists no images"),
        (tested.replace("3.jpg", "77.jpg"), r"3 of 3 test images in .* cannot be decoded"),
    ):
        (place / "TestImages.txt").write_text(content)
        with pytest.raises(ValueError, match=words):
            load("scenes", root=scenes)
    (place / "TestImages.txt").unlink()
    with pytest.raises(ValueError, match=r"no file .*TestImages.txt: get it from https"):
        load("scenes", root=scenes)
    (place / "Images").rename(place / "images")
    with pytest.raises(ValueError, match=r"should hold the folder Images, TrainImages.txt and TestImages.txt"):
        load("scenes", root=scenes)
    with pytest.raises(ValueError, match=r"no folder scenes in .*: unpack indoorCVPR_09.tar"):
        load("scenes", root=scenes / "elsewhere")


# ---------------- iNaturalist as its archives and annotations lie on disk

SPECIES = ("Aves/0", "Aves/1", "Plantae/2")


def edit(file: Path, change: Any) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_photographs_come_with_the_official_split(nature: Path):
    dataset = load("inaturalist-2018", root=nature)
    assert dataset.name == "inaturalist-2018"
    assert dataset.classes == ("species 0", "species 1", "species 2")
    assert dataset.train.labels.tolist() == [0, 1, 2, 0, 2, 0, 0]
    assert dataset.test.labels.tolist() == [2, 0, 1]
    assert dataset.test.images.shape == (3, 224, 224, 3)
    assert dataset.photographs
    assert len(load("inaturalist-2018", root=nature, train_limit=2).train) == 2


def test_torchvisions_folder_does_as_well(nature: Path):
    before = load("inaturalist-2018", root=nature)
    (nature / "train_val2018").rename(nature / "2018")
    after = load("inaturalist-2018", root=nature)
    assert (before.train.images == after.train.images).all()
    theirs = datasets.INaturalist(nature, version="2018")
    assert len(theirs) == 10
    assert [theirs.category_name("full", label) for label in range(3)] == list(SPECIES)
    # The root may be the folder itself.
    assert load("inaturalist-2018", root=nature / "2018").test.labels.tolist() == [2, 0, 1]


def test_the_layout_of_2017_names_folders_after_species(nature: Path):
    dataset = load("inaturalist-2017", root=nature, image_size=32)
    assert dataset.classes == ("species 0", "species 1", "species 2")
    assert dataset.test.images.shape == (3, 32, 32, 3)


def test_what_is_missing_or_does_not_fit_is_said(nature: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"no folder train_val2019 in .*: unpack train_val2019.tar.gz and the annot"):
        load("inaturalist-2019", root=tmp_path / "elsewhere")
    val, train = nature / "val2018.json", nature / "train2018.json"
    kept = val.read_text()
    edit(val, lambda content: content["categories"].pop())
    with pytest.raises(ValueError, match=r"the categories of .*val2018.json are not numbered 0…1"):
        load("inaturalist-2018", root=nature)
    val.write_text(kept)
    edit(val, lambda content: content["categories"][0].update(name="other"))
    with pytest.raises(ValueError, match="list different categories: take both from the same archive"):
        load("inaturalist-2018", root=nature)
    val.write_text(kept)
    edit(val, lambda content: content["annotations"][0].update(category_id=7))
    with pytest.raises(ValueError, match=r"gives image 102 \(.*val2.jpg\) the category 7, which it does not list"):
        load("inaturalist-2018", root=nature)
    val.write_text("[]")
    with pytest.raises(ValueError, match=r"val2018.json is no file of annotations"):
        load("inaturalist-2018", root=nature)
    train.unlink()
    with pytest.raises(ValueError, match=r"there is no file train2018.json beside .*: put the competition"):
        load("inaturalist-2018", root=nature)


@pytest.mark.parametrize("content", ['{"categories": [{"id": Infinity, "name": "a"}]}', "[" * 100_000, "null", "3"])
def test_annotations_that_cannot_be_are_refused(nature: Path, content: str):
    (nature / "val2018.json").write_text(content)
    with pytest.raises(ValueError, match=r"val2018.json is no file of annotations"):
        load("inaturalist-2018", root=nature)


# ---------------------------------------------------------------- flowers-102, as its owners publish it


def test_training_and_validation_images_are_learned_from(flowers102: Path):
    dataset = load("flowers102", root=flowers102, image_size=32)
    assert dataset.classes == ("flower 1", "flower 2", "flower 3")
    assert dataset.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.test.labels.tolist() == [0, 1, 2]
    assert dataset.test.images.shape == (3, 32, 32, 3)
    assert len(load("flowers102", root=flowers102 / "flowers-102", image_size=32, train_fraction=0.5).train) == 3


def test_missing_and_damaged_files_are_refused(flowers102: Path, tmp_path: Path):
    place = flowers102 / "flowers-102"
    with pytest.raises(ValueError, match=r"no folder flowers-102 in .*102flowers.tgz"):
        load("flowers102", root=tmp_path / "elsewhere")
    savemat(place / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[10]]})
    with pytest.raises(ValueError, match="does not list"):
        load("flowers102", root=flowers102)
    savemat(place / "setid.mat", {"trnid": [[1]]})
    with pytest.raises(ValueError, match=r"setid.mat holds no row 'valid'"):
        load("flowers102", root=flowers102)
    (place / "imagelabels.mat").unlink()
    with pytest.raises(ValueError, match=r"no file .*imagelabels.mat"):
        load("flowers102", root=flowers102)


@pytest.mark.parametrize(
    "labels",
    [[], [0, 1, 2, 1, 2, 1, 2, 1, 2], [-1, 2, 1, 2, 1, 2, 1, 2, 1], [1.5] * 9, [float("nan")] * 9, [1j] * 9],
    ids=["none", "from 0", "below 0", "fractions", "no numbers", "complex"],
)
def test_labels_that_are_no_classes_are_refused(flowers102: Path, labels: list[float]):
    savemat(flowers102 / "flowers-102" / "imagelabels.mat", {"labels": np.array(labels)})
    with pytest.raises(ValueError, match=r"the row 'labels' of .*imagelabels.mat must hold whole numbers from 1 on"):
        load("flowers102", root=flowers102)


@pytest.mark.parametrize("kept", [0, 1, 100, 150, -10])
def test_a_file_that_was_cut_off_is_refused(flowers102: Path, kept: int):
    file = flowers102 / "flowers-102" / "imagelabels.mat"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"imagelabels.mat holds no row 'labels' as"):
        load("flowers102", root=flowers102)
