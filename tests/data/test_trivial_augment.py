"""TrivialAugment against torchvision's, whose draws come from a generator and ours from the image's place."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import TrivialAugmentWide

from attention_transfer.data import DataSet, loader
from attention_transfer.data.pipeline.augment import mirrors, shifts, window
from attention_transfer.data.pipeline.trivial_augment import NUM_STRENGTHS, OPERATIONS, choices, trivial_augment

THEIRS = TrivialAugmentWide()
SPACE = THEIRS._AUGMENTATION_SPACE


@pytest.fixture
def images() -> Tensor:
    """Smooth enough that no operation makes them all alike, and none of the levels is missing."""
    ramp = torch.arange(32)
    noise = torch.randint(0, 60, (40, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    return (noise + 3 * ramp[:, None, None] + 3 * ramp[None, :, None]).to(torch.uint8)


def theirs(image: Tensor, name: str, magnitude: float) -> Tensor:
    """Torchvision's operation on an image of shape h w 3."""
    out = THEIRS._apply_image_or_video_transform(
        image.permute(2, 0, 1), name, magnitude, interpolation=InterpolationMode.NEAREST, fill=THEIRS._fill
    )
    return out.permute(1, 2, 0)


def test_operations_and_magnitudes_are_those_of_torchvision():
    assert len(OPERATIONS) == len(SPACE) == 14
    assert THEIRS.num_magnitude_bins == NUM_STRENGTHS
    for operation, (name, (magnitudes, signed)) in zip(OPERATIONS.values(), SPACE.items(), strict=True):
        expected = magnitudes(NUM_STRENGTHS, 32, 32)
        expected = torch.zeros(NUM_STRENGTHS) if expected is None else expected.float()
        assert torch.equal(operation.magnitudes(), expected), name
        assert operation.signed == signed, name


@pytest.mark.parametrize(("ours", "name"), [*zip(OPERATIONS, SPACE, strict=True)])
def test_operations_do_what_torchvision_does(images: Tensor, ours: str, name: str):
    operation, changed = OPERATIONS[ours], 0
    for image in images[:4]:
        for step in (0, 3, 14, 30):
            for sign in (1, -1) if operation.signed else (1,):
                magnitude = sign * float(operation.magnitudes()[step])
                out = operation.apply(image.permute(2, 0, 1).contiguous(), magnitude).permute(1, 2, 0)
                assert torch.equal(out, theirs(image, name, magnitude))
                changed += not torch.equal(out, image)
    assert (changed == 0) == (ours == "identity")


def test_images_undergo_what_was_drawn_for_them(images: Tensor):
    index = torch.arange(100, 140)
    before = images.clone()
    out = trivial_augment(images, index, seed=5, epoch=2)
    assert torch.equal(images, before)
    names = dict([*zip(OPERATIONS, SPACE, strict=True)])
    for image, after, (name, magnitude) in zip(images, out, choices(index, seed=5, epoch=2), strict=True):
        assert torch.equal(after, theirs(image, names[name], magnitude))


def test_operations_strengths_and_signs_are_uniform():
    drawn = choices(torch.arange(28_000), seed=0, epoch=0)
    counts = Counter(name for name, _ in drawn)
    assert set(counts) == set(OPERATIONS)
    assert max(abs(count - 2000) for count in counts.values()) < 200
    rotations = np.array([magnitude for name, magnitude in drawn if name == "rotate"])
    assert abs((rotations > 0).mean() - (rotations < 0).mean()) < 0.1
    assert len(set(np.abs(rotations).tolist())) == NUM_STRENGTHS
    assert np.abs(rotations).mean() == pytest.approx(67.5, abs=4)


def test_draws_belong_to_the_image_the_epoch_and_the_seed(images: Tensor):
    index = torch.tensor([5, 900, 31, 7, 8, 9])
    drawn = choices(index, seed=1, epoch=4)
    assert drawn == [choices(i[None], seed=1, epoch=4)[0] for i in index]
    assert drawn != choices(index, seed=1, epoch=5)
    assert drawn != choices(index, seed=2, epoch=4)
    whole = trivial_augment(images[:6], index, seed=1, epoch=4)
    alone = torch.cat([trivial_augment(images[i : i + 1], index[i : i + 1], seed=1, epoch=4) for i in range(6)])
    assert torch.equal(whole, alone)


def test_a_loader_changes_what_crop_flip_leaves(small_set: DataSet):
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in (small_set.mean, small_set.std))
    batches = loader(small_set.train, small_set, batch_size=8, train=True, augment="trivial-augment", seed=3).epoch(7)
    for batch in batches:
        assert batch.index is not None
        raw = torch.from_numpy(small_set.train.images)[batch.index]
        down, right = shifts(batch.index, 2, seed=3, epoch=7)
        raw = window(raw, down, right, 16, mirrors(batch.index, seed=3, epoch=7))
        raw = trivial_augment(raw, batch.index, seed=3, epoch=7).permute(0, 3, 1, 2)
        torch.testing.assert_close(batch.image, (raw / 255 - mean) / std)
