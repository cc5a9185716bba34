"""Cropping, resizing and normalisation of a batch, in a few operations on the whole batch.

>>> cut = Cut("none", side=4, seed=0, changes=Changes(), mean=(0.5, 0.5, 0.5))
>>> half = torch.full((1, 3, 1, 1), 0.5)
>>> pixels = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
>>> index = torch.tensor([0, 1])
>>> images = Preparation(cut, half, half, torch.contiguous_format)(cut(pixels, None, index, 0), index, 0)
>>> images.shape, images.unique().tolist()
(torch.Size([2, 3, 4, 4]), [-1.0])
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from attention_transfer.data.pipeline.augment import mirrors, regions, resample, resize, shifts, window
from attention_transfer.data.pipeline.timm_augment import Changes
from attention_transfer.data.pipeline.trivial_augment import trivial_augment

Augmentation = Literal["none", "crop", "crop-flip", "reflect-crop-flip", "trivial-augment", "random-resized-crop"]


@dataclass(frozen=True)
class Cut:
    """Augmentation of pixels before normalisation; plain numbers, so that worker processes can do it too.

    Args:
        augment: name of the augmentation.
        side: side of the images, in pixels.
        seed: seed of the augmentation.
        changes: further augmentation; here that of pixels.
        mean: mean per channel, images in 0…1, with which changes fill what they uncover.
    """

    augment: Augmentation
    side: int
    seed: int
    changes: Changes
    mean: tuple[float, float, float]

    def __call__(
        self,
        images: UInt8[Tensor, "b h w 3"],
        sizes: Int64[Tensor, "b 2"] | None,
        index: Int64[Tensor, " b"],
        epoch: int,
    ) -> Tensor:
        """Images of one batch, (b, 3, s, s): bytes, or floats in 0…255 where they were resampled last.

        Args:
            images: canvases, with the image in the upper left corner.
            sizes: height and width of each image; None where square images fill their canvas.
            index: dataset indices.
            epoch: number of the epoch, from 0.
        """
        if self.augment == "random-resized-crop":
            return self._crop_resized(images, sizes, index, epoch)
        return self._shift(images, sizes, index, epoch)

    def _crop_resized(
        self,
        images: UInt8[Tensor, "b h w 3"],
        sizes: Int64[Tensor, "b 2"] | None,
        index: Int64[Tensor, " b"],
        epoch: int,
    ) -> Tensor:
        if sizes is None:
            heights, widths = (torch.full_like(index, side) for side in images.shape[1:3])
        else:
            heights, widths = sizes.unbind(1)
        region = regions(index, heights, widths, seed=self.seed, epoch=epoch)
        squares = resample(images, region, self.side, mirrors(index, seed=self.seed, epoch=epoch))
        if not self.changes.of_pixels:
            return squares
        pixels = squares.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return self._changed(pixels, index, epoch).permute(0, 3, 1, 2)

    def _shift(
        self,
        images: UInt8[Tensor, "b h w 3"],
        sizes: Int64[Tensor, "b 2"] | None,
        index: Int64[Tensor, " b"],
        epoch: int,
    ) -> Tensor:
        """Shifted, mirrored, otherwise changed, or none of it; at the stored resolution, which is changed last."""
        top = left = torch.zeros_like(index)
        side = images.shape[1]
        if sizes is not None:
            side = self.side
            top, left = ((sizes - side) // 2).unbind(1)
        mirrored = None
        if self.augment != "none":
            down, right = shifts(index, side // 8, seed=self.seed, epoch=epoch)
            top, left = top + down, left + right
        if self.augment not in ("none", "crop"):
            mirrored = mirrors(index, seed=self.seed, epoch=epoch)
        if self.augment != "none" or sizes is not None:
            border = "reflected" if self.augment == "reflect-crop-flip" else "black"
            images = window(images, top, left, side, mirrored, border, sizes)
        if self.augment == "trivial-augment":
            images = trivial_augment(images, index, seed=self.seed, epoch=epoch)
        images = self._changed(images, index, epoch)
        if side == self.side:
            return images.permute(0, 3, 1, 2)
        return resize(images, self.side)

    def _changed(
        self, images: UInt8[Tensor, "b h w 3"], index: Int64[Tensor, " b"], epoch: int
    ) -> UInt8[Tensor, "b h w 3"]:
        if not self.changes.of_pixels:
            return images
        return self.changes.change_pixels(images, index, self.mean, seed=self.seed, epoch=epoch)


@dataclass(frozen=True)
class Preparation:
    """Augmentation and normalisation of a batch.

    Args:
        cut: augmentation before normalisation.
        mean: mean per channel, images in 0…1.
        std: standard deviation per channel, images in 0…1.
        memory_format: memory format of the result.
    """

    cut: Cut
    mean: Float32[Tensor, "1 3 1 1"]
    std: Float32[Tensor, "1 3 1 1"]
    memory_format: torch.memory_format

    def __call__(self, squares: Tensor, index: Int64[Tensor, " b"], epoch: int) -> Float32[Tensor, "b 3 s s"]:
        """Normalise one batch, and erase parts of it.

        Args:
            squares: cropped images.
            index: dataset indices.
            epoch: number of the epoch, from 0.
        """
        x = squares.to(torch.float32, memory_format=self.memory_format)
        x = x.sub_(255 * self.mean).div_(255 * self.std)
        return self.cut.changes.erase(x, index, seed=self.cut.seed, epoch=epoch)
