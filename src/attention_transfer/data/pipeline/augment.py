"""Random crops, mirroring and resizing of batches on any device, drawn by (seed, epoch, dataset index).

>>> index = torch.arange(3)
>>> torch.equal(mirrors(index, seed=0, epoch=1), mirrors(index, seed=0, epoch=1))
True
>>> size = torch.full((3,), 64)
>>> top, left, height, width = regions(index, size, size, seed=0, epoch=0).unbind(1)
>>> bool(((top + height <= 64) & (left + width <= 64)).all())
True
>>> image = torch.arange(9, dtype=torch.uint8).reshape(1, 3, 3, 1).expand(1, 3, 3, 3)
>>> window(image, top=-1, left=-1, side=3)[0, :, :, 0].tolist()
[[0, 0, 0], [0, 0, 1], [0, 3, 4]]
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from attention_transfer.counter_rng import uniform

SCALE = (0.08, 1.0)  # area of a random resized crop, as a share of the image's
LOG_RATIO = math.log(4 / 3)  # largest |log| of its width over its height
ATTEMPTS = 10  # crops are drawn so often until one lies within its image

_AUGMENTATION = 3  # the stream of the hash that all of this draws from; its last counter is the column below
_MIRROR, _TOP, _LEFT, _AREA = 0, 1, 2, 3
_RATIO = _AREA + ATTEMPTS


def mirrors(index: Int64[Tensor, " b"], *, seed: int, epoch: int) -> Bool[Tensor, " b"]:
    """Which images are mirrored left to right: each with probability ½."""
    return _draws(index, seed, epoch, 1)[:, _MIRROR] < 0.5


def shifts(
    index: Int64[Tensor, " b"], pad: int, *, seed: int, epoch: int
) -> tuple[Int64[Tensor, " b"], Int64[Tensor, " b"]]:
    """Vertical and horizontal offsets −pad … pad of a crop, uniform."""
    draws = _draws(index, seed, epoch, _LEFT + 1)
    return _below(draws[:, _TOP], 2 * pad + 1) - pad, _below(draws[:, _LEFT], 2 * pad + 1) - pad


def regions(
    index: Int64[Tensor, " b"],
    heights: Int64[Tensor, " b"],
    widths: Int64[Tensor, " b"],
    *,
    seed: int,
    epoch: int,
) -> Int64[Tensor, "b 4"]:
    """Random resized crops: top, left, height and width within each image.

    The distribution of Szegedy et al. (CVPR 2015, arXiv:1409.4842, section 6) as torchvision fixes it: area 8–100 % of
    the image, aspect ratio log-uniform in 3/4…4/3, ten attempts, then the largest central crop of an allowed ratio.
    """
    draws = _draws(index, seed, epoch, _RATIO + ATTEMPTS)
    low, high = SCALE
    area = (heights * widths)[:, None] * (low + (high - low) * draws[:, _AREA:_RATIO])
    ratio = _exp(LOG_RATIO * (2 * draws[:, _RATIO:] - 1))
    wide, tall = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (wide > 0) & (tall > 0) & (wide <= widths[:, None]) & (tall <= heights[:, None])
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    most_wide = torch.minimum(widths, (heights * (4 / 3)).round().long())
    most_tall = torch.minimum(heights, (widths * (4 / 3)).round().long())
    width = torch.where(found, wide.gather(1, first)[:, 0], most_wide)
    height = torch.where(found, tall.gather(1, first)[:, 0], most_tall)
    top = torch.where(found, _below(draws[:, _TOP], heights - height + 1), (heights - height) // 2)
    left = torch.where(found, _below(draws[:, _LEFT], widths - width + 1), (widths - width) // 2)
    return torch.stack([top, left, height, width], dim=1)


def window(
    images: UInt8[Tensor, "b h w 3"],
    top: Int64[Tensor, " b"] | int,
    left: Int64[Tensor, " b"] | int,
    side: int,
    mirrored: Bool[Tensor, " b"] | None = None,
    border: Literal["black", "reflected"] = "black",
    sizes: Int64[Tensor, "b 2"] | None = None,
) -> UInt8[Tensor, "b side side 3"]:
    """Squares cut out of images, pixel by pixel.

    Args:
        images: canvases, with the image in the upper left corner.
        top: first row of each square; may lie outside the image.
        left: first column of each square; may lie outside the image.
        side: side of the squares, in pixels.
        mirrored: which squares are mirrored left to right.
        border: what lies outside an image: 0, or the image mirrored at the centres of its outermost pixels, which must
            be larger than what sticks out.
        sizes: height and width of each image, needed for a reflected border; None where images fill their canvas.
    """
    batch, height, width, _ = images.shape
    steps = torch.arange(side, device=images.device)
    across = steps.expand(batch, side)
    if mirrored is not None:
        across = torch.where(mirrored[:, None], side - 1 - across, across)
    rows = _column(top) + steps.expand(batch, side)
    columns = _column(left) + across
    if border == "reflected":
        rows = _reflected(rows, height if sizes is None else sizes[:, :1])
        columns = _reflected(columns, width if sizes is None else sizes[:, 1:])
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    first = torch.arange(batch, device=images.device)[:, None] * height + rows.clamp(0, height - 1)
    pixels = first[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    cut = images.reshape(-1, 3).index_select(0, pixels.reshape(-1)).reshape(batch, side, side, 3)
    return cut.mul_(inside[..., None])


def resample(
    images: UInt8[Tensor, "b h w 3"],
    region: Int64[Tensor, "b 4"],
    side: int,
    mirrored: Bool[Tensor, " b"],
) -> Float32[Tensor, "b 3 side side"]:
    """Regions (top, left, height, width) scaled to squares, bilinear and antialiased: as PIL does it, but unrounded."""
    # On an accelerator, reading the regions would make the host wait; on a CPU, the products cost seven times as much.
    if images.device.type == "cpu":
        return _resampled_one_by_one(images, region, side, mirrored)
    return _resampled_by_products(images, region, side, mirrored)


def resize(images: UInt8[Tensor, "b h w 3"], side: int) -> Float32[Tensor, "b 3 side side"]:
    """Whole images scaled to squares, up or down, bilinear and antialiased."""
    planes = images.permute(0, 3, 1, 2).to(torch.float32)
    return functional.interpolate(planes, (side, side), mode="bilinear", antialias=True)


def _resampled_one_by_one(
    images: UInt8[Tensor, "b h w 3"], region: Int64[Tensor, "b 4"], side: int, mirrored: Bool[Tensor, " b"]
) -> Float32[Tensor, "b 3 side side"]:
    out = torch.empty(len(images), 3, side, side)
    for target, image, (top, left, height, width), mirror in zip(
        out, images, region.tolist(), mirrored.tolist(), strict=True
    ):
        crop = resize(image[None, top : top + height, left : left + width], side)[0]
        target.copy_(crop.flip(2) if mirror else crop)
    return out


def _resampled_by_products(
    images: UInt8[Tensor, "b h w 3"], region: Int64[Tensor, "b 4"], side: int, mirrored: Bool[Tensor, " b"]
) -> Float32[Tensor, "b 3 side side"]:
    """Two matrix products per batch, one along each axis."""
    batch, height, width, _ = images.shape
    rows = _weights(height, region[:, 0], region[:, 2], side)
    columns = _weights(width, region[:, 1], region[:, 3], side)
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    tall = (rows @ images.to(torch.float32).reshape(batch, height, width * 3)).reshape(batch, side, width, 3)
    square = columns @ tall.permute(0, 2, 1, 3).reshape(batch, width, side * 3)
    return square.reshape(batch, side, side, 3).permute(0, 3, 2, 1)


def _weights(
    length: int, start: Int64[Tensor, " b"], extent: Int64[Tensor, " b"], side: int
) -> Float32[Tensor, "b side length"]:
    """Of each source pixel in each result: a triangle as wide as a result's pixel, but no narrower than a source's."""
    scale = (extent.to(torch.float32) / side)[:, None, None]
    source = torch.arange(length, device=start.device)
    result = torch.arange(side, device=start.device)[:, None]
    centre = start[:, None, None] + (result + 0.5) * scale
    weights = (1 - (source + 0.5 - centre).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights *= (source >= start[:, None, None]) & (source < (start + extent)[:, None, None])
    return weights / weights.sum(dim=2, keepdim=True)


def _draws(index: Int64[Tensor, " b"], seed: int, epoch: int, num: int) -> Float32[Tensor, "b num"]:
    # All columns in one go: on an accelerator the number of kernels is what counts.
    return uniform(seed, _AUGMENTATION, epoch, index[:, None], torch.arange(num, device=index.device))


def _below(draw: Float32[Tensor, " b"], high: Int64[Tensor, " b"] | int) -> Int64[Tensor, " b"]:
    # The product may round up to `high` itself.
    scaled = (draw * high).long()
    return scaled.clamp(max=high - 1) if isinstance(high, int) else torch.minimum(scaled, high - 1)


def _exp(x: Float32[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """The exponential for |x| ≤ 0.3 from sums and products only, whose rounding is the same on every device."""
    result = torch.ones_like(x)
    for divisor in range(7, 0, -1):
        result = result * x / divisor + 1
    return result


def _reflected(position: Int64[Tensor, "b side"], length: Int64[Tensor, "b 1"] | int) -> Int64[Tensor, "b side"]:
    """Positions outside 0 … length − 1 mirrored at the outermost pixels, which are not repeated."""
    return length - 1 - (length - 1 - position.abs()).abs()


def _column(offset: Int64[Tensor, " b"] | int) -> Int64[Tensor, "b 1"] | int:
    return offset if isinstance(offset, int) else offset[:, None]
