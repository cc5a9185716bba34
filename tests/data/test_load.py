from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from attention_transfer.data import DATA, Split, load
from attention_transfer.data.sources import cifar


def same(first: Split, second: Split) -> bool:
    return np.array_equal(first.images, second.images) and np.array_equal(first.labels, second.labels)


def numbers(split: Split | None) -> np.ndarray:
    """Which images these are: each holds its number in its first two channels."""
    assert split is not None
    assert isinstance(split.images, np.ndarray)
    return split.images[:, 0, 0, :2].astype(int) @ [1, 256]


def test_validation_is_cut_by_seed_and_index_alone(write_npz: Callable[..., Path]):
    images = np.arange(400, dtype=np.uint32).view(np.uint8).reshape(400, 4)[:, :2]
    images = np.tile(np.pad(images, ((0, 0), (0, 1)))[:, None, None], (1, 16, 16, 1))
    name = f"npz:{write_npz(images=images, labels=np.arange(400) % 3)}"
    whole = load(name)
    assert whole.validation is None
    cut = load(name, validation_fraction=0.25, seed=7)
    assert cut.validation is not None
    assert len(cut.train) + len(cut.validation) == 400
    assert 75 < len(cut.validation) < 125
    chosen = set(numbers(cut.validation).tolist())
    assert chosen.isdisjoint(numbers(cut.train).tolist())
    assert same(cut.test, whole.test)
    assert cut.mean == whole.mean
    again, other = (load(name, validation_fraction=0.25, seed=seed) for seed in (7, 8))
    assert same(again.train, cut.train)
    assert set(numbers(other.validation).tolist()) != chosen
    fewer = load(name, validation_fraction=0.25, seed=7, train_limit=200)
    assert set(numbers(fewer.validation).tolist()) == {i for i in chosen if i < 200}
    more = load(name, validation_fraction=0.5, seed=7)
    assert chosen < set(numbers(more.validation).tolist())


def test_the_limit_keeps_the_first_training_images(write_npz: Callable[..., Path]):
    name = f"npz:{write_npz()}"
    limited, whole = load(name, train_limit=5), load(name)
    assert same(limited.train, whole.train.subset(np.arange(5)))
    assert same(limited.test, whole.test)
    assert same(load(name, train_limit=500).train, whole.train)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("mnist", {}, "no data set 'mnist': choose one of cluttered-digits, cifar10"),
        ("npz", {}, "should be written npz:PATH"),
        ("folder:", {}, "should be written folder:PATH"),
        ("cifar10:/tmp", {}, "should be written cifar10"),
        ("folder:/nowhere/at/all", {}, "/nowhere/at/all is not a folder"),
        ("cluttered-digits", {"image_size": 7}, "image_size must be a whole number of pixels from 8 to 16,384, not 7"),
        ("cluttered-digits", {"train_limit": 0}, "train_limit must be at least 1, not 0"),
        ("cluttered-digits", {"train_classes": 0}, "train_classes must be 1…10, .* not 0: give one of these, or leave"),
        ("cluttered-digits", {"train_classes": 11}, "train_classes must be 1…10, .* not 11"),
        ("cluttered-digits", {"train_fraction": 0.0}, "train_fraction must be 0 < f ≤ 1, .* not 0.0"),
        ("cluttered-digits", {"train_fraction": 1.5}, "train_fraction must be 0 < f ≤ 1, .* not 1.5"),
        ("cluttered-digits", {"train_fraction": float("nan")}, "0 < f ≤ 1, .* not nan"),
        ("cluttered-digits", {"validation_fraction": 1.0}, "validation_fraction must be 0 ≤ f < 1, .* not 1.0"),
        ("cluttered-digits", {"validation_fraction": -0.1}, "validation_fraction must be 0 ≤ f < 1, .* not -0.1"),
        (
            "cluttered-digits",
            {"validation_fraction": float("nan")},
            "validation_fraction must be 0 ≤ f < 1, .* not nan",
        ),
    ],
)
def test_impossible_requests_are_refused(name: str, arguments: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        load(name, **arguments)


@pytest.mark.parametrize("fraction", [1e-9, 0.9999])
def test_a_fraction_that_leaves_nothing_is_refused(write_npz: Callable[..., Path], fraction: float):
    with pytest.raises(ValueError, match=r"of the 12 training images of npz:.* puts all of them on one side"):
        load(f"npz:{write_npz()}", validation_fraction=fraction)


def test_every_data_set_is_named_in_the_documentation_of_load():
    for name in DATA:
        assert f"`{name}" in (load.__doc__ or "")


def test_cifar_is_downloaded_once_and_found_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_cifar: type[Any]
):
    first = load("cifar10", root=tmp_path)
    assert (len(first.train), len(first.test), first.num_classes, first.image_size) == (20, 8, 10, 32)
    assert first.train.labels.dtype == np.int64
    monkeypatch.setattr(fake_cifar, "reachable", False)
    for root in (tmp_path, tmp_path / fake_cifar.base_folder):
        assert same(load("cifar10", root=root).train, first.train)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_comes_in_the_order_of_its_files(tmp_path: Path, fake_cifar: type[Any], name: str):
    dataset = load(name, root=tmp_path)
    files = fake_cifar(tmp_path, train=True)
    assert np.array_equal(dataset.train.images, files.data)
    assert dataset.train.labels.tolist() == files.targets
    assert dataset.classes == tuple(files.classes)


def test_cifar_that_is_out_of_reach_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_cifar: type[Any]
):
    monkeypatch.setattr(fake_cifar, "reachable", False)
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz is not in .* could not be downloaded .* put"):
        load("cifar10", root=tmp_path)


def test_torchvision_still_has_what_cifar_needs():
    for source in (datasets.CIFAR10, datasets.CIFAR100):
        assert all(isinstance(getattr(source, name), str) for name in ("base_folder", "filename", "url"))
    assert set(cifar._MEAN) == {10, 100}
