"""Images in arrays: npz files and cluttered digits."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from attention_transfer.data import DataSet, load
from attention_transfer.data.sources.cluttered_digits import NUM_IMAGES, TEST_SHARE, _draw, _scans, draw

Write = Callable[..., Path]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def test_images_labels_classes_and_boxes_are_read(write_npz: Write):
    boxes = np.arange(48).reshape(12, 4)
    path = write_npz(classes=np.array(["ant", "bee", "cat", "dog"]), boxes=boxes, coarse_labels=np.zeros(3))
    dataset = load(f"npz:{path}")
    assert dataset.classes == ("ant", "bee", "cat", "dog")
    assert np.array_equal(dataset.train.images, np.load(path / "train.npz")["images"])
    assert dataset.train.labels.dtype == np.int64
    assert dataset.train.boxes.dtype == np.float32
    assert np.array_equal(dataset.train.boxes, boxes)
    assert dataset.test.boxes is None
    assert (dataset.image_size, dataset.photographs) == (16, False)
    assert np.array_equal(load(f"npz:{path}", image_size=48).train.boxes, boxes * 3)


def test_images_are_normalised_by_their_own_statistics(write_npz: Write):
    images = noise(12, 16, 16, 3)
    images[..., 2] = 51
    dataset = load(f"npz:{write_npz(images=images)}")
    flat = images.reshape(-1, 3) / 255
    assert dataset.mean == pytest.approx(flat.mean(0))
    assert dataset.std == pytest.approx((flat[:, 0].std(), flat[:, 1].std(), 1.0))
    assert load(f"npz:{write_npz(images=images)}", train_limit=3).mean == dataset.mean


def test_grey_images_get_three_channels(write_npz: Write, tmp_path: Path):
    write_npz(images=noise(12, 16, 16))
    dataset = load(f"npz:{tmp_path}")
    assert dataset.train.images.shape == (12, 16, 16, 3)
    assert (dataset.train.images.std(-1) == 0).all()


def test_a_validation_file_serves_where_there_is_no_test_file(write_npz: Write):
    path = write_npz()
    (path / "test.npz").rename(path / "val.npz")
    assert len(load(f"npz:{path}").test) == 6


def test_classes_without_names_are_numbered(write_npz: Write):
    assert load(f"npz:{write_npz()}").classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "train.npz has no array 'images'"),
        ({"labels": None}, "train.npz has no array 'labels'"),
        ({"images": np.zeros((12, 16, 16, 3))}, "must be uint8, N×H×W×3 or N×H×W, but are float64, 12×16×16×3"),
        (
            {"images": noise(12, 16, 16, 3) / 255},
            r"are float64, .*: give \(255 \* images\).round\(\).astype",
        ),
        ({"images": noise(12, 16, 16, 3).astype(np.float16)}, r"are float16, .*: give images.round\(\).astype"),
        ({"images": noise(12, 16, 16, 3) / 100 - 1}, r"are float64, .* from -1 to 1.55: scale them to 0…255"),
        ({"images": np.full((12, 16, 16), np.nan)}, r"are float64, .* some of them not finite"),
        ({"images": noise(12, 16, 16, 3).astype(np.uint16) * 257}, r"are uint16, .*: give \(images / 257\).round\(\)"),
        ({"images": noise(12, 16, 16, 3).astype(np.int64)}, r"are int64, .*: give images.round\(\).astype\('uint8'\)"),
        ({"images": noise(12, 16, 16, 3).astype(np.int32) * 9}, r"are int32, .* from 0 to 2295: scale them"),
        ({"images": noise(12, 16, 16) > 99}, r"are bool, 12×16×16: give 255 \* images.astype\('uint8'\)"),
        ({"images": noise(12, 16, 16, 1)}, r"but are uint8, 12×16×16×1: give images\[..., 0\]"),
        ({"images": noise(12, 16, 16, 4)}, r"but are uint8, 12×16×16×4: lay them on a background"),
        ({"images": noise(12, 1, 16, 16)}, r"12×1×16×16: give images.transpose\(0, 2, 3, 1\)"),
        ({"images": noise(12, 768)}, "but are uint8, 12×768"),
        ({"images": np.array([b"x"] * 12)}, "but are |S1, 12"),
        ({"images": np.array([None] * 12)}, "holds pickled objects"),
        ({"images": None, "arr_0": noise(12, 16, 16)}, "has no array 'images' but labels, arr_0: save one with"),
        ({"labels": np.array(["ant", "bee"] * 6)}, r"are <U3, 12: give numpy.unique\(labels, return_inverse=True\)"),
        ({"labels": np.eye(12, dtype=int)}, r"are int64, 12×12: give labels.argmax\(1\), if each row is of one class"),
        ({"labels": np.eye(12)[:, :3]}, r"are float64, 12×3: give labels.argmax\(1\)"),
        ({"labels": np.arange(12) / 2}, r"are float64, 12: give labels.astype\('int64'\), if they are whole numbers"),
        ({"labels": np.arange(12) > 5}, r"are bool, 12: give labels.astype\('int64'\)"),
        ({"labels": np.full(12, 2**64 - 1, dtype=np.uint64)}, "go up to 18446744073709551615, which is no class index"),
        ({"labels": np.arange(12) * 10**9}, "go up to 11,000,000,000, and classes are numbered from 0 without a gap"),
        ({"classes": np.array([["a"], ["b"], ["c"]])}, "'classes' of .* must be a list of names, but are 3×1"),
        ({"classes": np.array([b"a", b"caf\xe9", b"c"])}, "'classes' of .* are no text in UTF-8"),
        ({"images": noise(12, 3, 16, 16)}, "but are uint8, 12×3×16×16"),
        ({"images": noise(12, 16, 20, 3)}, "must be square, .* but are 16×20"),
        ({"images": noise(12, 4, 4, 3)}, "at least 8 pixels a side, but are 4×4"),
        ({"images": noise(12, 20, 20, 3)}, r"test.npz holds images of side 16, but train.npz of 20"),
        ({"images": noise(0, 16, 16, 3), "labels": np.zeros(0, dtype=int)}, "holds no images"),
        ({"labels": np.zeros(11, dtype=int)}, "one integer for each of 12 images, but are int64, 11"),
        ({"labels": np.zeros(12)}, "one integer for each of 12 images, but are float64, 12"),
        ({"labels": np.arange(12) - 1}, "label -1 of image 0 in .*train.npz is outside 0…10: .* 1 labels do not fit"),
        (
            {"labels": np.zeros(12, dtype=int)},
            "label 1 of image 1 in .*test.npz is outside 0…0: the training labels",
        ),
        ({"classes": np.array(["a", "b"])}, "label 2 of image 2 in .*train.npz is outside 0…1: 'classes' names 2"),
        ({"boxes": np.zeros((12, 3))}, "four numbers for each of 12 images, but are float64, 12×3"),
    ],
)
def test_arrays_that_are_not_images_are_refused(write_npz: Write, changes: dict[str, np.ndarray | None], words: str):
    path = write_npz(**changes)
    with pytest.raises(ValueError, match=words):
        load(f"npz:{path}")


def test_a_column_of_labels_is_read(write_npz: Write):
    assert load(f"npz:{write_npz(labels=np.arange(12)[:, None] % 3)}").train.labels.tolist() == [0, 1, 2] * 4


def write_labels(folder: Path, labels: list[int], **arrays: np.ndarray) -> str:
    for name in ("train", "test"):
        np.savez(folder / f"{name}.npz", images=noise(len(labels), 16, 16), labels=np.array(labels), **arrays)
    return f"npz:{folder}"


def test_labels_that_count_from_one_make_no_class_of_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    dataset = load(write_labels(tmp_path, [1, 2, 3, 1]))
    assert (dataset.classes, dataset.num_classes) == (("1", "2", "3"), 3)
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0, 1, 2, 0]
    assert "count from 1, to 3: label 1 is the first of 3 classes" in capsys.readouterr().err
    named = load(write_labels(tmp_path, [1, 2, 3], classes=np.array([b"ant", b"bee", b"cat\n"])))
    assert (named.classes, named.train.labels.tolist()) == (("ant", "bee", "cat\\n"), [0, 1, 2])
    # Of three names that the first is not used by any image is no contradiction.
    assert load(write_labels(tmp_path, [1, 2], classes=np.array(list("abc")))).train.labels.tolist() == [1, 2]


def test_labels_that_no_image_has_are_said(tmp_path: Path):
    dataset = load(write_labels(tmp_path, [0, 2, 5]))
    assert (dataset.num_classes, dataset.notes) == (6, ("no training image has label 1, 3, 4",))
    assert load(write_labels(tmp_path, [2, 3])).notes == ("no training image has label 0, 1",)


def test_a_zero_beside_labels_from_one_is_a_class(tmp_path: Path):
    write_labels(tmp_path, [0, 1, 2])
    np.savez(tmp_path / "train.npz", images=noise(2, 16, 16), labels=np.array([1, 2]))
    assert load(f"npz:{tmp_path}").num_classes == 3


def test_other_names_in_the_test_file_are_refused(write_npz: Write):
    path = write_npz(classes=np.array(["a", "b", "c"]))
    for names in (["a", "c", "b"], ["a", "b"]):
        np.savez(path / "test.npz", images=noise(3, 16, 16), labels=np.arange(3), classes=np.array(names))
        with pytest.raises(ValueError, match=r"'classes' of .*test.npz are a, .*, but of train.npz a, b, c: give both"):
            load(f"npz:{path}")


def test_of_three_files_one_is_for_validation(write_npz: Write):
    path = write_npz()
    np.savez(path / "valid.npz", images=noise(5, 16, 16, 3), labels=np.arange(5) % 3)
    dataset = load(f"npz:{path}")
    assert dataset.validation is not None
    assert (len(dataset.train), len(dataset.validation), len(dataset.test), dataset.test_is) == (12, 5, 6, "test")
    (path / "test.npz").unlink()
    assert load(f"npz:{path}").test_is == "valid"
    np.savez(path / "val.npz", images=noise(5, 16, 16, 3), labels=np.arange(5) % 3)
    with pytest.raises(ValueError, match=r"holds val.npz and valid.npz, and only one of them can be its validation"):
        load(f"npz:{path}")


def test_missing_files_are_named(tmp_path: Path, write_npz: Write):
    with pytest.raises(ValueError, match=r"must hold train.npz and test.npz or val.npz, but holds nothing"):
        load(f"npz:{tmp_path}")
    write_npz()
    (tmp_path / "test.npz").unlink()
    with pytest.raises(ValueError, match=r"but holds train.npz"):
        load(f"npz:{tmp_path}")


def test_damaged_and_pickled_files_are_refused(write_npz: Write):
    path = write_npz(labels=np.array([{}] * 12, dtype=object))
    with pytest.raises(ValueError, match="holds pickled objects"):
        load(f"npz:{path}")
    file = write_npz() / "train.npz"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"train.npz is not a readable npz file"):
        load(f"npz:{path}")


# ---------------------------------------------------------------- cluttered digits

FROZEN = {
    "train": "8271ad9fd84651fcee836f343d46471414eaa11d41f04b01fb74e26ebccf1150",
    "test": "e0079036e470fbc19262bf5e01fff72707ba5003afa80d7ff1165e163cb33db3",
}


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("cluttered-digits")


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_frozen(split: str):
    """If this fails, all results on this data set are void. Never change a hash to make a test pass."""
    drawn = draw(split, torch.tensor([0, 1, 2, 3, 700, NUM_IMAGES[split] - 1]))
    assert isinstance(drawn.images, np.ndarray)
    assert drawn.boxes is not None
    content = drawn.images.tobytes() + drawn.labels.astype("<i8").tobytes() + drawn.boxes.astype("<f4").tobytes()
    assert hashlib.sha256(content).hexdigest() == FROZEN[split]


def test_an_image_is_the_same_however_it_is_asked_for(digits: DataSet):
    index = torch.tensor([1501, 3, 499, 500])
    again = draw("train", index)
    whole = digits.train.subset(index.numpy())
    assert np.array_equal(again.images, whole.images)
    assert np.array_equal(again.labels, whole.labels)
    assert np.array_equal(again.boxes, whole.boxes)


def test_seed_and_split_change_the_images():
    first = draw("train", torch.arange(4)).images
    assert not np.array_equal(first, draw("train", torch.arange(4), seed=1).images)
    assert not np.array_equal(first, draw("test", torch.arange(4)).images)


def test_threads_do_not_change_the_images():
    threads = torch.get_num_threads()
    several = draw("test", torch.arange(40)).images
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert np.array_equal(draw("test", torch.arange(40)).images, several)
    finally:
        torch.set_num_threads(threads)


def test_scanned_digits_are_divided_before_images_are_made():
    train, test = (_scans(split) for split in ("train", "test"))
    assert len(train[0]) + len(test[0]) == 1797
    as_bytes = [{glyph.numpy().tobytes() for glyph in glyphs} for glyphs, _ in (train, test)]
    assert not as_bytes[0] & as_bytes[1]
    shares = test[1] / (train[1] + test[1])
    assert (shares - TEST_SHARE).abs().max() < 0.005


def test_the_shape_of_the_data_set(digits: DataSet):
    for split, num in ((digits.train, NUM_IMAGES["train"]), (digits.test, NUM_IMAGES["test"])):
        assert isinstance(split.images, np.ndarray)
        assert split.images.shape == (num, 32, 32, 3)
        assert split.images.dtype == np.uint8
        assert np.bincount(split.labels, minlength=10).min() > num / 13
    assert digits.num_classes == 10
    assert not digits.mirrored


def test_boxes_hold_the_digit(digits: DataSet):
    """A canvas that differs in the digit alone differs inside the box, and hardly anywhere else."""
    glyphs, counts = _scans("test")
    with_digit, _, boxes = _draw(glyphs, counts, torch.arange(40), stream=1)
    own = digits.test.labels[:40]
    ends = counts.cumsum(0)
    for i, label in enumerate(own.tolist()):
        without = glyphs.clone()
        without[ends[label] - counts[label] : ends[label]] = 0  # no fragment is of the digit's own class
        bare, _, _ = _draw(without, counts, torch.tensor([i]), stream=1)
        difference = (with_digit[i].int() - bare[0].int()).abs().sum(-1)
        left, top, right, bottom = boxes[i].int().tolist()
        inside = difference[top:bottom, left:right].sum()
        assert inside > 0.9 * difference.sum() > 0
        assert 0 <= left < right <= 32
        assert 0 <= top < bottom <= 32
        assert bottom - top >= 12


def test_boxes_grow_with_the_images(digits: DataSet):
    large = load("cluttered-digits", image_size=64, train_limit=5)
    assert large.image_size == 64
    assert large.train.boxes is not None
    assert np.array_equal(large.train.boxes, digits.train.subset(np.arange(5)).boxes * 2)
    assert np.array_equal(large.train.images, digits.train.images[:5])
