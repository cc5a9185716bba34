"""Which training images are learned from, in which order, and with which draws."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_transfer.counter_rng import hashed, integers, uniform
from attention_transfer.data import DATA, OWN_SIDES, DataSet, load, loader
from attention_transfer.data.pipeline.order import Plan, permutation
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


# ---------------------------------------------------------------- draws

MASK = 2**64 - 1


def slow_hash(seed: int, *counters: int) -> int:
    """The definition, in Python's unbounded integers."""

    def mixed(x: int) -> int:
        x ^= x >> 30
        x = x * 0xBF58476D1CE4E5B9 & MASK
        x ^= x >> 27
        x = x * 0x94D049BB133111EB & MASK
        return x ^ (x >> 31)

    state = mixed((seed + 0x9E3779B97F4A7C15) & MASK)
    for counter in counters:
        state = mixed((state + 0x9E3779B97F4A7C15 * (counter + 1)) & MASK)
    return state


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, -5, 2**70])
def test_hash_is_the_definition(seed: int):
    last = torch.arange(50)
    expected = [slow_hash(seed, 3, i, 8) for i in range(50)]
    assert [value & MASK for value in hashed(seed, 3, last, 8).tolist()] == expected


def test_counters_broadcast():
    table = hashed(1, torch.arange(4)[:, None], torch.arange(3))
    assert table[2, 1] == hashed(1, torch.tensor(2), 1)
    assert len(table.unique()) == 12


def test_a_hash_without_a_tensor_is_refused():
    with pytest.raises(ValueError, match="at least one counter that is a tensor"):
        hashed(0, 1, 2)


def test_uniform_numbers_fill_the_unit_interval_evenly():
    draws = uniform(0, torch.arange(100_000))
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, bins=20, min=0, max=1)
    assert ((counts - 5000).abs() < 350).all()  # five standard deviations


def test_neighbours_are_uncorrelated():
    draws = torch.stack([uniform(seed, epoch, torch.arange(20_000)) for seed in (0, 1) for epoch in (0, 1)])
    correlations = torch.corrcoef(torch.cat([draws, draws.roll(1, 1)])) - torch.eye(8)
    assert correlations.abs().max() < 0.04


def test_integers_reach_every_value_below_their_bound():
    draws = integers(9, 0, torch.arange(9000))
    assert torch.bincount(draws, minlength=9).tolist() == pytest.approx([1000] * 9, abs=150)
    bounds = torch.tensor([1, 2, 3])
    assert (integers(bounds, 0, torch.arange(300)[:, None]).amax(0) == bounds - 1).all()


# ---------------------------------------------------------------- order


def test_every_epoch_has_its_own_order_of_all_images():
    orders = [permutation(1000, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert (order.sort().values == torch.arange(1000)).all()
    for i, order in enumerate(orders):
        for other in orders[:i]:
            assert (order == other).sum() < 10
    assert (permutation(1000, seed=1, epoch=1) == orders[3]).all()


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_share_the_batches_of_a_single_one(world_size: int):
    single = Plan(1000, 24, train=True, seed=5).batches(2)
    ranks = [Plan(1000, 24 // world_size, True, 5, rank, world_size).batches(2) for rank in range(world_size)]
    assert len(single) == 42
    for whole, *parts in zip(single, *ranks, strict=True):
        assert whole.sort().values.tolist() == torch.cat(parts).sort().values.tolist()


@pytest.mark.parametrize(("num_images", "batches"), [(64, 2), (65, 2), (66, 3), (33, 1), (2, 1), (1, 0)])
def test_training_keeps_a_last_batch_of_two(num_images: int, batches: int):
    plan = Plan(num_images, 32, train=True)
    assert plan.num_batches == batches == len(plan.batches(0))


def test_processes_never_differ_in_the_number_of_training_batches():
    for num_images in range(16, 40):
        plans = [Plan(num_images, 4, True, 0, rank, 3) for rank in range(3)]
        assert len({plan.num_batches for plan in plans}) == 1
        assert min(len(batch) for plan in plans for batch in plan.batches(0)) >= 2


def test_evaluation_keeps_everything_in_order():
    for num_images in (1, 7, 8, 9):
        assert torch.cat(Plan(num_images, 4, train=False).batches(3)).tolist() == list(range(num_images))
        shares = [Plan(num_images, 2, False, 0, rank, 2) for rank in range(2)]
        images = [batch for plan in shares for batch in plan.batches(0)]
        assert torch.cat(images).sort().values.tolist() == list(range(num_images))
        assert all(plan.num_batches == len(plan.batches(0)) for plan in shares)
        assert min(len(batch) for batch in images) > 0
