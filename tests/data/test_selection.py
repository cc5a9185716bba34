"""Which training images are learned from: against a slow loop, and in every data set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_transfer.data import DATA, OWN_SIDES, DataSet, load, loader
from attention_transfer.data.selection import Selection
from attention_transfer.data.sources.cluttered_digits import NUM_IMAGES

SELECTIONS = [
    {},
    {"train_classes": 1},
    {"train_classes": 2},
    {"train_fraction": 0.5},
    {"train_fraction": 1e-6},
    {"train_limit": 3},
    {"train_classes": 2, "train_fraction": 0.7, "train_limit": 3},
]


def slowly(
    labels: list[int],
    train_classes: int | None = None,
    train_fraction: float | None = None,
    train_limit: int | None = None,
) -> list[int]:
    """Positions of the selected images: classes, then the first share of each, then a number of all."""
    left = [i for i in range(len(labels)) if train_classes is None or labels[i] < train_classes]
    if train_fraction is not None:
        kept: list[int] = []
        for label in set(labels):
            members = [i for i in left if labels[i] == label]
            kept += members[: max(1, int(train_fraction * len(members) + 0.5))]
        left = sorted(kept)
    return left[:train_limit]


def images(dataset: DataSet) -> Tensor:
    return torch.cat([b.image for b in loader(dataset.train, dataset, batch_size=64, train=False).epoch(0)])


@pytest.fixture
def spec(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `load` needs to read a small form of a data set."""
    if name == "npz":
        return {"name": f"npz:{request.getfixturevalue('write_npz')()}"}
    if name == "folder":
        return {"name": f"folder:{request.getfixturevalue('photographs')}"}
    if name == "cluttered-digits":
        monkeypatch.setitem(NUM_IMAGES, "train", 60)
        monkeypatch.setitem(NUM_IMAGES, "test", 40)
        return {"name": name}
    kept = {"cifar10": "fake_cifar", "cifar100": "fake_cifar", "tiny-imagenet": "tiny", "cub200": "birds"}
    request.getfixturevalue("nature" if name.startswith("inaturalist") else kept.get(name, name))
    return {"name": name, "root": tmp_path}


@pytest.mark.parametrize("name", DATA)
def test_every_data_set_keeps_the_selected_training_images_and_no_others(spec: dict[str, Any], name: str):
    whole = load(**spec)
    pixels = images(whole)
    sizes: set[int] = set()
    for selection in SELECTIONS:
        part = load(**spec, **selection)
        expected = slowly(whole.train.labels.tolist(), **selection)
        assert part.train.labels.tolist() == whole.train.labels[expected].tolist(), selection
        assert torch.equal(images(part), pixels[expected]), selection
        assert part.classes == whole.classes
        assert (part.mean, part.std) == (whole.mean, whole.std)
        assert np.array_equal(part.test.labels, whole.test.labels)
        sizes.add(len(part.train))
    assert len(sizes) >= 3


@pytest.mark.parametrize("name", DATA)
def test_every_data_set_delivers_the_side_that_is_said_to_be_its_own(spec: dict[str, Any], name: str):
    said = OWN_SIDES[name]
    if said is None:
        assert load(**spec).image_size == load(**spec).train.images.shape[1]
    else:
        assert load(**spec).image_size == said
    assert load(**spec, image_size=40).image_size == 40


def test_no_side_is_said_of_what_is_no_data_set():
    assert list(OWN_SIDES) == list(DATA)


@pytest.mark.parametrize("name", DATA)
def test_unseen_are_the_test_images_of_the_other_classes(spec: dict[str, Any], name: str):
    whole, part = load(**spec), load(**spec, train_classes=1)
    assert whole.unseen is None
    assert "unseen" not in whole.splits
    others = whole.test.labels[whole.test.labels >= 1]
    assert part.unseen is not None
    assert part.splits["unseen"].labels.tolist() == part.unseen.labels.tolist() == others.tolist()
    assert load(**spec, train_classes=whole.num_classes).unseen is None


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.5, 0.7, 1.0])
def test_a_fraction_takes_the_first_of_every_class(fraction: float):
    labels = np.random.default_rng(0).integers(0, 7, 333)
    for classes, limit in ((None, None), (4, None), (4, 20)):
        selection = Selection(classes, fraction, limit)
        expected = slowly(labels.tolist(), classes, fraction, limit)
        assert selection.positions(labels, 7).tolist() == expected


def test_halves_are_rounded_up_and_absent_classes_stay_absent():
    labels = np.array([0] * 5 + [2] * 3)
    assert Selection(fraction=0.5).positions(labels, 4).tolist() == [0, 1, 2, 5, 6]
    with pytest.raises(ValueError, match="no training image belongs to the first 1 classes: raise train_classes"):
        Selection(classes=1).positions(np.array([1, 2]), 3)


def test_validation_images_are_taken_from_what_is_selected(monkeypatch: pytest.MonkeyPatch):
    for split in ("train", "test"):
        monkeypatch.setitem(NUM_IMAGES, split, 100)
    dataset = load("cluttered-digits", train_classes=3, train_fraction=0.5, validation_fraction=0.3)
    assert dataset.validation is not None
    assert set(dataset.validation.labels.tolist()) <= {0, 1, 2}
    counts = np.bincount(load("cluttered-digits").train.labels, minlength=10)[:3]
    assert len(dataset.validation) + len(dataset.train) == sum(max(1, int(0.5 * count + 0.5)) for count in counts)
