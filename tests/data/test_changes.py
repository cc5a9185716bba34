"""RandAugment, jitter and erasing: timm's, with draws that belong to an image and not to the order of the batches."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from attention_transfer import Data
from attention_transfer.data import DataSet, load, loader
from attention_transfer.data.pipeline.timm_augment import Changes

POLICY = "rand-m9-mstd0.5-inc1"
MEAN = (0.5, 0.4, 0.3)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (40, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def changed(changes: Changes, images: Tensor, index: Tensor, seed: int = 3, epoch: int = 2) -> Tensor:
    return changes.change_pixels(images, index, MEAN, seed=seed, epoch=epoch)


@pytest.mark.parametrize(
    "changes",
    [
        Changes(POLICY),
        Changes("augmix-m5-w2"),
        Changes("v0"),
        Changes("original-mstd0.5"),
        Changes("3a"),
        Changes(colour_jitter=0.4),
    ],
    ids=str,
)
def test_an_image_is_changed_alike_in_any_company_and_differently_in_another_epoch(changes: Changes, images: Tensor):
    index = torch.arange(100, 140)
    whole = changed(changes, images, index)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    assert (whole != images).flatten(1).any(1).float().mean() > 0.3
    backwards = changed(changes, images.flip(0), index.flip(0)).flip(0)
    assert torch.equal(whole, backwards)
    assert torch.equal(whole[7:9], changed(changes, images[7:9], index[7:9]))
    assert not torch.equal(whole, changed(changes, images, index, epoch=3))
    assert not torch.equal(whole, changed(changes, images, index, seed=4))


def test_generators_of_everybody_else_are_left_alone(images: Tensor):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    index = torch.arange(40)
    changed(Changes(POLICY), images, index)
    changed(Changes(colour_jitter=0.4), images, index)
    Changes(random_erasing=1.0).erase(torch.zeros(4, 3, 16, 16), index[:4], seed=0, epoch=0)
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


def test_the_policy_is_timms_with_the_settings_of_its_training_pipeline(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
):
    """Under the same seeds, timm's own transform on the same image gives the same pixels."""
    settings = {"translate_const": 7, "img_mean": (128, 102, 76), "interpolation": Image.Resampling.BICUBIC}
    theirs = rand_augment_transform(POLICY, settings)
    seeds: list[int] = []

    def seed(number: int) -> None:
        seeds.append(number)
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)

    monkeypatch.setattr("attention_transfer.data.pipeline.timm_augment.seed_generators", seed)
    ours = changed(Changes(POLICY), images[:10], torch.arange(10))
    monkeypatch.undo()
    for image, number, out in zip(images[:10], seeds, ours, strict=True):
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)
        assert np.array_equal(np.asarray(theirs(Image.fromarray(image.numpy()))), out.numpy())


def test_no_magnitude_that_noise_may_reach_breaks_off_training(images: Tensor):
    """At magnitude 10 timm keeps no bit of a colour, which Pillow refuses; 9 ± 0.5 comes to it now and then."""
    out = changed(Changes("rand-m10-n3-p1-inc1"), images.repeat(10, 1, 1, 1), torch.arange(400))
    assert (out == 0).flatten(1).all(1).any()


def test_erasing_hits_the_share_of_images_that_was_asked_for_with_noise():
    index = torch.arange(2000)
    out = Changes(random_erasing=0.25).erase(torch.full((2000, 3, 12, 12), 9.0), index, seed=1, epoch=0)
    hit = (out != 9).flatten(1).any(1)
    assert 0.2 < hit.float().mean() < 0.3
    erased = out[out != 9]
    assert abs(erased.mean()) < 0.05
    assert abs(erased.std() - 1) < 0.05
    again = Changes(random_erasing=0.25).erase(torch.full((10, 3, 12, 12), 9.0), index[50:60], seed=1, epoch=0)
    assert torch.equal(again, out[50:60])


def test_every_image_is_erased_where_the_probability_is_one():
    out = Changes(random_erasing=1.0).erase(torch.full((50, 3, 16, 16), 9.0), torch.arange(50), seed=1, epoch=0)
    area = (out != 9).flatten(1).float().mean(1)
    assert (area > 0).all()
    assert (area < 0.45).all()


def test_small_images_in_memory_are_cropped_mirrored_and_then_changed(small_set: DataSet):
    def pixels(changes: Changes | None) -> dict[int, Tensor]:
        batches = loader(small_set.train, small_set, batch_size=10, train=True, changes=changes, seed=2).epoch(1)
        mean, std = (torch.tensor(value)[:, None, None] for value in (small_set.mean, small_set.std))
        return {
            int(i): ((image * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0)
            for batch in batches
            for i, image in zip(batch.index, batch.image, strict=True)
        }

    plain, augmented = pixels(None), pixels(Changes(POLICY))
    index = torch.tensor(sorted(plain))
    expected = Changes(POLICY).change_pixels(
        torch.stack([plain[int(i)] for i in index]), index, small_set.mean, seed=2, epoch=1
    )
    assert torch.equal(torch.stack([augmented[int(i)] for i in index]), expected)


def test_evaluation_sees_images_as_they_are(small_set: DataSet):
    given = {"batch_size": 10, "train": False}
    plain, same = (
        next(iter(loader(small_set.test, small_set, **given, changes=changes).epoch(0))).image
        for changes in (None, Changes(POLICY, random_erasing=1.0))
    )
    assert torch.equal(plain, same)


@pytest.mark.parametrize("augment", ["crop-flip", "random-resized-crop"])
def test_files_become_the_same_samples_for_any_number_of_workers(
    tmp_path: Path, write_image: Any, monkeypatch: pytest.MonkeyPatch, augment: Any
):
    for part in ("train", "val"):
        for number in range(12):
            write_image(tmp_path / part / f"class{number % 2}" / f"{number}.png", 90 + number, 80, seed=number)
    dataset = load(f"folder:{tmp_path}", image_size=72)
    monkeypatch.setattr("attention_transfer.data.pipeline.image_files.MEMORY_BUDGET", 0)
    as_files = load(f"folder:{tmp_path}", image_size=72)
    assert isinstance(as_files.train.images, tuple)

    def samples(dataset: DataSet, num_workers: int) -> Tensor:
        batches = loader(
            dataset.train,
            dataset,
            batch_size=5,
            train=True,
            augment=augment,
            changes=Changes(POLICY, random_erasing=0.5),
            num_workers=num_workers,
            seed=1,
        ).epoch(2)
        found = [(int(i), image) for batch in batches for i, image in zip(batch.index, batch.image, strict=True)]
        return torch.stack([image for _, image in sorted(found, key=lambda each: each[0])])

    alone = samples(as_files, 0)
    assert len(alone) == 12
    assert torch.equal(alone, samples(as_files, 2))
    assert torch.equal(alone, samples(dataset, 0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"auto_augment": "randm9"}, "'randm9' is none of timm's policies: begin with rand, augmix, original"),
        (
            {"auto_augment": "rand-m9-std0.5"},
            r"parts that timm does not know for rand: std0.5; write it as in rand-m9-",
        ),
        ({"auto_augment": "v0-m9"}, "parts that timm does not know for v0: m9"),
        ({"colour_jitter": 0.0}, "colour_jitter must be above 0, not 0.0"),
        ({"random_erasing": 1.5}, "random_erasing must be a probability 0 < p ≤ 1, not 1.5"),
        ({"auto_augment": POLICY, "colour_jitter": 0.4}, "give one of them"),
    ],
)
def test_what_cannot_be_done_is_refused_where_it_is_given(fields: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Data(**fields)
