"""Augmentation, TrivialAugment and mixed batches, whose draws come from the image's place."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import TrivialAugmentWide

from attention_transfer import Data
from attention_transfer.data import Batch, DataSet, loader
from attention_transfer.data.pipeline import augment
from attention_transfer.data.pipeline.augment import mirrors, regions, resample, resize, shifts, window
from attention_transfer.data.pipeline.mixing import Mixing
from attention_transfer.data.pipeline.trivial_augment import NUM_STRENGTHS, OPERATIONS, choices, trivial_augment


@pytest.fixture
def images() -> Tensor:
    return torch.randint(1, 256, (12, 10, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_crops_are_those_of_a_padded_image_pixel_by_pixel(images: Tensor):
    index = torch.arange(12)
    down, right = shifts(index, 2, seed=3, epoch=1)
    mirrored = mirrors(index, seed=3, epoch=1)
    cut = window(images, down, right, 10, mirrored)
    for i in range(12):
        padded = np.zeros((14, 14, 3), dtype=np.uint8)
        padded[2:12, 2:12] = images[i]
        top, left = int(down[i]) + 2, int(right[i]) + 2
        expected = padded[top : top + 10, left : left + 10]
        assert (cut[i].numpy() == (expected[:, ::-1] if mirrored[i] else expected)).all()


def test_window_leaves_its_input_alone(images: Tensor):
    before = images.clone()
    window(images, torch.full((12,), 5), torch.full((12,), 5), 10)
    assert (images == before).all()


def test_half_of_the_images_are_mirrored_and_shifts_are_uniform():
    index = torch.arange(20_000)
    mirrored = mirrors(index, seed=0, epoch=0)
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.02)
    down, right = shifts(index, 4, seed=0, epoch=0)
    places = torch.bincount((down + 4) * 9 + right + 4, minlength=81)
    assert len(places) == 81
    assert places.min() > 160  # 247 expected
    assert places.max() < 340
    assert (down * right).float().mean().abs() < 0.2
    assert (mirrored.float() - 0.5).mul(down).mean().abs() < 0.1


def test_draws_belong_to_the_image_and_the_epoch():
    index = torch.tensor([5, 900, 31])
    alone = torch.cat([regions(i[None], *_size(1, 40, 60), seed=1, epoch=4) for i in index])
    assert (regions(index, *_size(3, 40, 60), seed=1, epoch=4) == alone).all()
    assert (regions(index, *_size(3, 40, 60), seed=1, epoch=5) != alone).any()
    assert (regions(index, *_size(3, 40, 60), seed=2, epoch=4) != alone).any()


@pytest.mark.parametrize(("height", "width"), [(256, 256), (256, 341), (300, 40)])
def test_random_regions_lie_within_images_and_have_allowed_shapes(height: int, width: int):
    top, left, tall, wide = regions(torch.arange(5000), *_size(5000, height, width), seed=0, epoch=0).unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert min(tall.min(), wide.min()) > 0
    assert (top + tall).max() <= height
    assert (left + wide).max() <= width
    ratio = wide / tall
    assert ratio.min() > 0.72
    assert ratio.max() < 1.38


def test_areas_of_random_regions_are_uniform_from_a_twelfth_to_all():
    _, _, tall, wide = regions(torch.arange(20_000), *_size(20_000, 1000, 1000), seed=0, epoch=0).unbind(1)
    area = tall * wide / 1e6
    assert area.min() == pytest.approx(0.08, abs=0.002)
    small = area[area < 0.7]  # larger ones are rejected more often the longer they are
    counts = torch.histc(small, bins=5, min=0.08, max=0.7)
    assert (counts / counts.mean() - 1).abs().max() < 0.07
    assert (wide / tall).log().mean().abs() < 0.01


def test_hopeless_shapes_fall_back_to_the_centre():
    region = regions(torch.arange(50), *_size(50, 1000, 10), seed=0, epoch=0)
    central = torch.tensor([493, 0, 13, 10])
    assert (region == central).all(dim=1).sum() > 40


def _size(num: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.full((num,), height), torch.full((num,), width)


@pytest.mark.parametrize("function", ["resample", "_resampled_by_products"])
def test_regions_are_scaled_as_pil_scales_crops(function: str):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, 60, 80, 3), dtype=torch.uint8, generator=generator)
    region = torch.tensor([
        [0, 0, 60, 80],
        [10, 20, 16, 16],
        [3, 7, 50, 20],
        [59, 0, 1, 80],
        [5, 5, 9, 40],
        [0, 0, 16, 16],
    ])
    mirrored = torch.tensor([False, True, True, False, False, True])
    out = getattr(augment, function)(images, region, 16, mirrored)
    assert out.shape == (6, 3, 16, 16)
    for i, (top, left, height, width) in enumerate(region.tolist()):
        crop = Image.fromarray(images[i].numpy()).crop((left, top, left + width, top + height))
        expected = np.asarray(crop.resize((16, 16), Image.Resampling.BILINEAR)).astype(np.float32)
        if mirrored[i]:
            expected = expected[:, ::-1]
        # PIL rounds to whole levels after each of its two passes
        assert np.abs(out[i].permute(1, 2, 0).numpy() - expected).max() <= 1.01


def test_both_ways_of_resampling_agree():
    images = torch.randint(0, 256, (5, 40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    index = torch.arange(5)
    region = regions(index, *_size(5, 40, 50), seed=0, epoch=0)
    mirrored = mirrors(index, seed=0, epoch=0)
    expected = resample(images, region, 24, mirrored)
    torch.testing.assert_close(
        augment._resampled_by_products(images, region, 24, mirrored), expected, rtol=0, atol=5e-3
    )


def test_images_of_the_right_size_are_not_changed_by_resizing(images: Tensor):
    assert (resize(images, 10) == images.permute(0, 3, 1, 2)).all()


@pytest.mark.parametrize("sized", [False, True])
def test_reflected_borders_are_those_of_numpy(images: Tensor, sized: bool):
    index = torch.arange(12)
    down, right = shifts(index, 3, seed=3, epoch=1)
    mirrored = mirrors(index, seed=3, epoch=1)
    sizes = torch.stack([8 + index % 3, 10 - index % 2], dim=1) if sized else None
    cut = window(images, down, right, 10, mirrored, "reflected", sizes)
    for i in range(12):
        height, width = (10, 10) if sizes is None else sizes[i].tolist()
        padded = np.pad(images[i, :height, :width].numpy(), ((3, 6), (3, 6), (0, 0)), mode="reflect")
        top, left = int(down[i]) + 3, int(right[i]) + 3
        expected = padded[top : top + 10, left : left + 10]
        assert (cut[i].numpy() == (expected[:, ::-1] if mirrored[i] else expected)).all()


# ---------------------------------------------------------------- TrivialAugment against torchvision's

THEIRS = TrivialAugmentWide()
SPACE = THEIRS._AUGMENTATION_SPACE


@pytest.fixture
def smooth_images() -> Tensor:
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
def test_operations_do_what_torchvision_does(smooth_images: Tensor, ours: str, name: str):
    operation, changed = OPERATIONS[ours], 0
    for image in smooth_images[:4]:
        for step in (0, 3, 14, 30):
            for sign in (1, -1) if operation.signed else (1,):
                magnitude = sign * float(operation.magnitudes()[step])
                out = operation.apply(image.permute(2, 0, 1).contiguous(), magnitude).permute(1, 2, 0)
                assert torch.equal(out, theirs(image, name, magnitude))
                changed += not torch.equal(out, image)
    assert (changed == 0) == (ours == "identity")


def test_images_undergo_what_was_drawn_for_them(smooth_images: Tensor):
    index = torch.arange(100, 140)
    before = smooth_images.clone()
    out = trivial_augment(smooth_images, index, seed=5, epoch=2)
    assert torch.equal(smooth_images, before)
    names = dict([*zip(OPERATIONS, SPACE, strict=True)])
    for image, after, (name, magnitude) in zip(smooth_images, out, choices(index, seed=5, epoch=2), strict=True):
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


def test_draws_belong_to_the_image_the_epoch_and_the_seed(smooth_images: Tensor):
    index = torch.tensor([5, 900, 31, 7, 8, 9])
    drawn = choices(index, seed=1, epoch=4)
    assert drawn == [choices(i[None], seed=1, epoch=4)[0] for i in index]
    assert drawn != choices(index, seed=1, epoch=5)
    assert drawn != choices(index, seed=2, epoch=4)
    whole = trivial_augment(smooth_images[:6], index, seed=1, epoch=4)
    alone = torch.cat([trivial_augment(smooth_images[i : i + 1], index[i : i + 1], seed=1, epoch=4) for i in range(6)])
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


# ---------------------------------------------------------------- mixed batches

RECIPE = Mixing(mixup=0.8, cutmix=1.0, label_smoothing=0.1)


def mixed(
    mixing: Mixing, count: int = 8, step: int = 0, rank: int = 0, epoch: int = 0, seed: int = 1
) -> tuple[Tensor, Tensor]:
    """Images that show nothing but their number, one class each."""
    images = torch.arange(float(count))[:, None, None, None].expand(count, 3, 10, 10).clone()
    return mixing(images, torch.arange(count), count, seed=seed, epoch=epoch, step=step, rank=rank)


@pytest.mark.parametrize(
    "mixing", [RECIPE, Mixing(mixup=0.8), Mixing(cutmix=1.0), Mixing(label_smoothing=0.2)], ids=str
)
@pytest.mark.parametrize("count", [8, 7, 2, 3])
def test_labels_are_probabilities(mixing: Mixing, count: int):
    for step in range(20):
        _, labels = mixed(mixing, count, step)
        assert labels.shape == (count, count)
        torch.testing.assert_close(labels.sum(1), torch.ones(count))
        assert (labels >= 0).all()


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(cutmix=1.0)], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("count", [8, 7])
def test_images_hold_as_much_of_each_other_as_their_labels_say(mixing: Mixing, count: int):
    """The mean of an image is Σ probability·number, for blends and rectangles alike."""
    for step in range(20):
        images, labels = mixed(mixing, count, step)
        torch.testing.assert_close(images.mean((1, 2, 3)), labels @ torch.arange(float(count)))
        assert ((labels > 0).sum(1) <= 2).all()


def test_the_recipe_takes_turns_between_blends_and_rectangles():
    blends = [bool((mixed(RECIPE, step=step)[0][0].unique().numel()) == 1) for step in range(60)]
    assert 15 < sum(blends) < 45


def test_smoothing_alone_leaves_images_and_spreads_probability():
    images, labels = mixed(Mixing(label_smoothing=0.2), count=4)
    assert torch.equal(images[:, 0, 0, 0], torch.arange(4.0))
    torch.testing.assert_close(labels, 0.8 * torch.eye(4) + 0.05)


def test_draws_belong_to_seed_epoch_step_and_rank_and_leave_generators_alone():
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    images, labels = mixed(RECIPE)
    assert np.random.rand() == expected
    again, same = mixed(RECIPE)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    for other in ({"step": 1}, {"rank": 1}, {"epoch": 1}, {"seed": 2}):
        assert not torch.equal(labels, mixed(RECIPE, **other)[1])


def test_a_loader_gives_mixed_batches_wherever_it_starts(small_set: DataSet):
    train = loader(small_set.train, small_set, batch_size=8, train=True, mixing=RECIPE, seed=2)
    whole: list[Batch] = list(train.epoch(3))
    resumed: list[Batch] = list(train.epoch(3, start=4))
    assert len(whole) == 7
    for a, b in zip(whole[4:], resumed, strict=True):
        assert a.label is not None
        assert b.label is not None
        assert a.label.shape[1] == 5
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label, b.label)
    evaluation = loader(small_set.test, small_set, batch_size=8, train=False, mixing=RECIPE)
    assert all(batch.label is not None and batch.label.ndim == 1 for batch in evaluation.epoch(0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mixup": 0.0}, r"mixup must be a number α above 0, of Beta\(α, α\), not 0.0"),
        ({"cutmix": float("inf")}, "cutmix must be a number α above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be 0 < s < 1, not 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused_where_they_are_given(fields: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Data(**fields)
