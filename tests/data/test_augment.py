import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attention_transfer.data.pipeline import augment
from attention_transfer.data.pipeline.augment import mirrors, regions, resample, resize, shifts, window


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
