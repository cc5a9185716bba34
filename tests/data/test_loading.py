"""Data sets are loaded, and batches made of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torchvision import datasets

from attention_transfer.data import DATA, Batch, DataSet, Split, load, loader
from attention_transfer.data.pipeline import image_files
from attention_transfer.data.pipeline.augment import mirrors, regions, shifts
from attention_transfer.data.pipeline.loader import Loader
from attention_transfer.data.pipeline.preparation import Augmentation
from attention_transfer.data.sources import cifar


def batches(loader: Loader, epoch: int = 0, start: int = 0) -> list[Batch]:
    return list(loader.epoch(epoch, start))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.image, b.image)
        assert a.label is not None
        assert a.index is not None
        assert b.label is not None
        assert torch.equal(a.label, b.label)
        assert torch.equal(a.index, b.index)


def test_evaluation_delivers_everything_in_order_and_normalised(small_set: DataSet):
    out = batches(loader(small_set.test, small_set, batch_size=4, train=False))
    assert [len(batch.image) for batch in out] == [4, 4, 2]
    images = torch.from_numpy(small_set.test.images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in (small_set.mean, small_set.std))
    torch.testing.assert_close(torch.cat([batch.image for batch in out]), (images - mean) / std)
    assert torch.cat([batch.label for batch in out]).tolist() == small_set.test.labels.tolist()
    assert torch.cat([batch.index for batch in out]).tolist() == list(range(10))


@pytest.mark.parametrize("augment", ["none", "crop", "crop-flip", "reflect-crop-flip"])
def test_training_images_are_augmented_as_a_slow_loop_would(small_set: DataSet, augment: Any):
    """Raw pixels shifted by up to 2 of 16, black or reflected outside, mirrored or not, then normalised."""
    mean, std = np.array(small_set.mean), np.array(small_set.std)
    seen: list[int] = []
    for batch in loader(small_set.train, small_set, batch_size=8, train=True, augment=augment, seed=3).epoch(7):
        for image, label, i in zip(batch.image, batch.label, batch.index.tolist(), strict=True):
            raw = np.zeros((20, 20, 3))
            raw[2:18, 2:18] = small_set.train.images[i]
            if augment == "reflect-crop-flip":
                raw = np.pad(small_set.train.images[i].astype(float), ((2, 2), (2, 2), (0, 0)), mode="reflect")
            down = right = 0
            if augment != "none":
                down, right = (int(x) for x in shifts(torch.tensor([i]), 2, seed=3, epoch=7))
            raw = raw[2 + down : 18 + down, 2 + right : 18 + right]
            if "flip" in augment and mirrors(torch.tensor([i]), seed=3, epoch=7):
                raw = raw[:, ::-1]
            np.testing.assert_allclose(image.permute(1, 2, 0), (raw / 255 - mean) / std, rtol=1e-5, atol=1e-5)
            assert label == small_set.train.labels[i]
            seen.append(i)
    assert sorted(seen) == list(range(50))


def test_auto_follows_the_data_set(small_set: DataSet):
    digits, photographs = replace(small_set, mirrored=False), replace(small_set, photographs=True)
    for dataset, augment in ((small_set, "crop-flip"), (digits, "crop"), (photographs, "random-resized-crop")):
        auto, named = (
            batches(loader(dataset.train, dataset, batch_size=50, train=True, augment=choice))
            for choice in ("auto", augment)
        )
        assert_same(auto, named)


def test_epochs_may_come_in_any_order_and_resume_anywhere(small_set: DataSet):
    one = loader(small_set.train, small_set, batch_size=8, train=True, seed=1)
    assert one.num_batches == 7
    third = batches(one, 3)
    abandoned = one.epoch(0)
    next(abandoned)
    assert_same(batches(one, 3), third)
    other = loader(small_set.train, small_set, batch_size=8, train=True, seed=1)
    assert_same(batches(other, 3, start=4), third[4:])
    assert batches(other, 3, start=7) == []
    assert not torch.equal(batches(other, 4)[0].image, third[0].image)


@pytest.mark.parametrize("augment", get_args(Augmentation))
def test_an_image_does_not_depend_on_its_batch(small_set: DataSet, augment: Any):
    settings: dict[str, Any] = {"train": True, "augment": augment}
    small, large = (
        torch.cat([b.image for b in batches(loader(small_set.train, small_set, batch_size=size, **settings))])
        for size in (5, 25)
    )
    assert torch.equal(small, large)


@pytest.mark.parametrize("augment", get_args(Augmentation))
def test_processes_see_together_what_one_sees(small_set: DataSet, augment: Any):
    settings: dict[str, Any] = {"train": True, "seed": 2, "augment": augment}
    single = batches(loader(small_set.train, small_set, batch_size=10, **settings), 1)
    ranks = [
        batches(loader(small_set.train, small_set, batch_size=5, **settings, rank=rank, world_size=2), 1)
        for rank in range(2)
    ]
    for whole, even, odd in zip(single, *ranks, strict=True):
        assert torch.equal(whole.image[0::2], even.image)
        assert torch.equal(whole.image[1::2], odd.image)


def test_training_leaves_random_generators_and_data_alone(small_set: DataSet, photographs: Path):
    before = torch.get_rng_state()
    pixels = small_set.train.images.copy()
    on_disk = load(f"folder:{photographs}", image_size=80)
    for dataset in (small_set, on_disk):
        batches(loader(dataset.train, dataset, batch_size=4, train=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(small_set.train.images, pixels)


@pytest.mark.parametrize("train", [True, False])
def test_memory_format_changes_no_value(small_set: DataSet, train: bool):
    plain, last = (
        batches(loader(small_set.train, small_set, batch_size=8, train=train, channels_last=channels_last))
        for channels_last in (False, True)
    )
    assert_same(plain, last)
    assert plain[0].image.is_contiguous()
    assert last[0].image.is_contiguous(memory_format=torch.channels_last)


def test_images_are_delivered_at_the_asked_size(small_set: DataSet):
    for size in (8, 32):
        dataset = replace(small_set, image_size=size)
        for train, augment in ((False, "none"), (True, "crop-flip"), (True, "random-resized-crop")):
            batch = batches(loader(dataset.train, dataset, batch_size=8, train=train, augment=augment))[0]
            assert batch.image.shape == (8, 3, size, size)
    mean = torch.tensor(small_set.mean).reshape(3, 1, 1)
    std = torch.tensor(small_set.std).reshape(3, 1, 1)
    dataset = replace(small_set, image_size=8)
    image = batches(loader(dataset.test, dataset, batch_size=8, train=False))[0].image[0] * std + mean
    average = torch.from_numpy(small_set.test.images[0]).float().mean((0, 1)) / 255
    torch.testing.assert_close(image.mean((1, 2)), average, rtol=0.02, atol=0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # small machines have fewer cores
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 and later
@pytest.mark.parametrize("augment", get_args(Augmentation))
def test_files_give_the_same_batches_for_any_number_of_workers_and_in_memory(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, augment: Any
):
    in_memory = load(f"folder:{photographs}", image_size=80)
    assert isinstance(in_memory.train.images, np.ndarray)
    monkeypatch.setattr(image_files, "MEMORY_BUDGET", 0)
    on_disk = load(f"folder:{photographs}", image_size=80)
    assert isinstance(on_disk.train.images, tuple)
    expected = batches(loader(in_memory.train, in_memory, batch_size=5, train=True, augment=augment, seed=4), 2)
    for num_workers in (0, 2, 4):
        other = loader(
            on_disk.train, on_disk, batch_size=5, train=True, augment=augment, seed=4, num_workers=num_workers
        )
        assert_same(batches(other, 2), expected)
    assert_same(batches(other, 2, start=1), expected[1:])


def test_evaluation_of_training_photographs_sees_their_centre(photographs: Path, monkeypatch: pytest.MonkeyPatch):
    """From the larger stored image, from the file, and by hand: the same pixels."""
    in_memory = load(f"folder:{photographs}", image_size=80)
    assert in_memory.train.sizes is not None
    monkeypatch.setattr(image_files, "MEMORY_BUDGET", 0)
    on_disk = load(f"folder:{photographs}", image_size=80)
    first, second = (batches(loader(d.train, d, batch_size=5, train=False)) for d in (in_memory, on_disk))
    assert_same(first, second)
    by_hand = image_files.delivered(80, photographs=True).read(on_disk.train.images[0])
    mean, std = np.array(on_disk.mean), np.array(on_disk.std)
    np.testing.assert_allclose(first[0].image[0].permute(1, 2, 0), (by_hand / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_random_crops_of_photographs_lie_within_the_picture(tmp_path: Path):
    """White pictures on black canvases of different shapes: no crop shows any black."""
    from PIL import Image

    for part in ("train", "val"):
        (tmp_path / part / "white").mkdir(parents=True)
        for i, size in enumerate(((300, 90), (90, 140), (100, 100))):
            Image.new("RGB", size, "white").save(tmp_path / part / "white" / f"{i}.png")
    dataset = load(f"folder:{tmp_path}", image_size=72)
    assert dataset.train.sizes.tolist() == [[82, 164], [128, 82], [82, 82]]
    for epoch in range(20):
        (batch,) = batches(loader(dataset.train, dataset, batch_size=3, train=True), epoch)
        white = (1 - torch.tensor(dataset.mean)) / torch.tensor(dataset.std)
        torch.testing.assert_close(batch.image, white.reshape(1, 3, 1, 1).expand(3, 3, 72, 72), rtol=1e-4, atol=1e-4)
    sizes = torch.from_numpy(dataset.train.sizes).long()
    drawn = regions(torch.arange(3), sizes[:, 0], sizes[:, 1], seed=0, epoch=0)
    assert (drawn[:, :2] + drawn[:, 2:] <= sizes).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 1, "train": True}, "training needs batches of at least 2, not 1"),
        ({"batch_size": 0, "train": False}, "evaluation needs batches of at least 1, not 0"),
        ({"batch_size": 8, "train": True, "rank": 2, "world_size": 2}, "rank 2 is not one of 2 processes"),
        ({"batch_size": 64, "train": True, "world_size": 40}, "50 training images .* each of 40 processes"),
    ],
)
def test_impossible_batches_are_refused(small_set: DataSet, arguments: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        loader(small_set.train, small_set, **arguments)


# ---------------------------------------------------------------- data sets


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
