from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attention_transfer.data import load

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


def test_missing_files_are_named(tmp_path: Path, write_npz: Write):
    with pytest.raises(ValueError, match=r"must hold train.npz and test.npz or val.npz, but holds nothing"):
        load(f"npz:{tmp_path}")
    write_npz()
    (tmp_path / "test.npz").unlink()
    with pytest.raises(ValueError, match=r"but holds train.npz"):
        load(f"npz:{tmp_path}")


def test_damaged_and_pickled_files_are_refused(write_npz: Write):
    path = write_npz(labels=np.array([{}] * 12, dtype=object))
    with pytest.raises(ValueError, match="not a readable npz file without pickled objects"):
        load(f"npz:{path}")
    file = write_npz() / "train.npz"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"train.npz is not a readable npz file"):
        load(f"npz:{path}")
