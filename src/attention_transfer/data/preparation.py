"""What becomes of the pixels of a batch: cut or resampled, then normalised, in a few operations on the whole batch."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from attention_transfer.data.augment import mirrors, regions, resample, resize, shifts, window
from attention_transfer.data.trivial_augment import trivial_augment

Augmentation = Literal["none", "crop", "crop-flip", "reflect-crop-flip", "trivial-augment", "random-resized-crop"]


@dataclass(frozen=True)
class Preparation:
    """Turns stored pixels into what a network receives.

    Args:
        augment: what is done to the images.
        side: of the squares that are made, in pixels.
        mean: per channel, images in 0…1.
        std: per channel, images in 0…1.
        seed: of the augmentation.
        memory_format: of the result.
    """

    augment: Augmentation
    side: int
    mean: Float32[Tensor, "1 3 1 1"]
    std: Float32[Tensor, "1 3 1 1"]
    seed: int
    memory_format: torch.memory_format

    def __call__(
        self,
        images: UInt8[Tensor, "b h w 3"],
        sizes: Int64[Tensor, "b 2"] | None,
        index: Int64[Tensor, " b"],
        epoch: int,
    ) -> Float32[Tensor, "b 3 s s"]:
        """Prepares one batch.

        Args:
            images: canvases, with the image in the upper left corner.
            sizes: height and width of each image; None where square images fill their canvas.
            index: positions in the split.
            epoch: its number.
        """
        if self.augment == "random-resized-crop":
            x = self._crop_resized(images, sizes, index, epoch)
        else:
            x = self._shift(images, sizes, index, epoch)
        x = x.to(torch.float32, memory_format=self.memory_format)
        return x.sub_(255 * self.mean).div_(255 * self.std)

    def _crop_resized(
        self,
        images: UInt8[Tensor, "b h w 3"],
        sizes: Int64[Tensor, "b 2"] | None,
        index: Int64[Tensor, " b"],
        epoch: int,
    ) -> Float32[Tensor, "b 3 s s"]:
        if sizes is None:
            heights, widths = (torch.full_like(index, side) for side in images.shape[1:3])
        else:
            heights, widths = sizes.unbind(1)
        region = regions(index, heights, widths, seed=self.seed, epoch=epoch)
        return resample(images, region, self.side, mirrors(index, seed=self.seed, epoch=epoch))

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
        if side == self.side:
            return images.permute(0, 3, 1, 2)
        return resize(images, self.side)
