import hashlib

import numpy as np
import pytest
import torch

from attention_transfer.data import DataSet, load
from attention_transfer.data.sources.cluttered_digits import NUM_IMAGES, TEST_SHARE, _draw, _scans, draw

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
