"""npz files as other people save them: objects, boxes of another kind, names that tell nothing apart."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attention_transfer.data import load

Write = Callable[..., Path]


def test_images_of_several_sizes_are_refused_with_the_way_out(write_npz: Write):
    ragged = np.empty(12, dtype=object)
    ragged[:] = [np.zeros((8 + i, 8, 3), np.uint8) for i in range(12)]
    with pytest.raises(
        ValueError, match=r"holds pickled objects, .* images of several sizes belong into a folder:PATH"
    ):
        load(f"npz:{write_npz(images=ragged)}")


def test_two_channels_are_not_told_to_become_bytes(write_npz: Write):
    with pytest.raises(ValueError, match=r"but are uint8, 12×16×16×2$"):
        load(f"npz:{write_npz(images=np.zeros((12, 16, 16, 2), np.uint8))}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_said_to_be_none(write_npz: Write, value: float):
    images = np.full((12, 16, 16, 3), 0.5)
    images[3, 2, 1] = value
    with pytest.raises(ValueError, match=r"are float64, 12×16×16×3, some of them not finite \(NaN or infinite\)"):
        load(f"npz:{write_npz(images=images)}")


def test_boxes_with_width_and_height_are_refused(write_npz: Write):
    boxes = np.tile(np.array([0, 0, 8, 8]), (12, 1))
    boxes[5] = (10, 2, 4, 9)
    with pytest.raises(ValueError, match=r"of image 5 are 10, 2, 4, 9: if the last two are width and height, add"):
        load(f"npz:{write_npz(boxes=boxes)}")


def test_boxes_that_are_not_known_are_accepted(write_npz: Write):
    boxes = np.tile(np.array([0, 0, 8, 8.0]), (12, 1))
    boxes[5] = np.nan
    found = load(f"npz:{write_npz(boxes=boxes)}").train.boxes
    assert found is not None
    assert np.isnan(found[5]).all()


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["crane", "bee", "crane"], "several classes are called crane and count as different"),
        (["ant", "", " "], "classes without a name: 1, 2"),
    ],
)
def test_names_that_tell_no_classes_apart_are_said(write_npz: Write, names: list[str], note: str):
    dataset = load(f"npz:{write_npz(classes=np.array(names))}")
    assert dataset.num_classes == 3
    assert note in dataset.notes


def test_a_file_that_may_not_be_read_is_not_said_to_be_damaged(write_npz: Write, monkeypatch: pytest.MonkeyPatch):
    place = write_npz()

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "train.npz")

    monkeypatch.setattr("numpy.load", fail)
    with pytest.raises(ValueError, match=r"train.npz cannot be read: Permission denied$"):
        load(f"npz:{place}")
