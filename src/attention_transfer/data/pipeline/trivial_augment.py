"""TrivialAugment: one random operation of random strength per image, drawn by (seed, epoch, dataset index).

>>> choices(torch.tensor([7]), seed=0, epoch=0) == choices(torch.tensor([7]), seed=0, epoch=0)
True
>>> trivial_augment(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.tensor([0, 1]), seed=0, epoch=0).shape
torch.Size([2, 8, 8, 3])
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional

from attention_transfer.counter_rng import integers

NUM_STRENGTHS = 31  # of the paper: m is drawn from 0…30

_TRIVIAL = 4  # the stream of the hash that all of this draws from; its last counter is the column below
_OPERATION, _STRENGTH, _SIGN = range(3)

Image = UInt8[Tensor, "3 h w"]


@dataclass(frozen=True)
class Operation:
    """One of those that an image may undergo.

    Args:
        apply: from an image and a magnitude to an image.
        weakest: first of the equally spaced magnitudes.
        strongest: last of them.
        signed: whether the magnitude is negative half of the time.
        whole: whether magnitudes are rounded.
    """

    apply: Callable[[Image, float], Image]
    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False
    whole: bool = False

    def magnitudes(self) -> Float32[Tensor, "31"]:
        """From the weakest to the strongest."""
        spaced = torch.linspace(self.weakest, self.strongest, NUM_STRENGTHS)
        return spaced.round() if self.whole else spaced


def _shear(image: Image, across: float, down: float) -> Image:
    degrees = [math.degrees(math.atan(across)), math.degrees(math.atan(down))]
    return functional.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])


def _translate(image: Image, right: float, down: float) -> Image:
    pixels = [float(int(right)), float(int(down))]
    return functional.affine(image, angle=0.0, translate=pixels, scale=1.0, shear=[0.0, 0.0])


OPERATIONS: dict[str, Operation] = {
    "identity": Operation(lambda image, _: image),
    "shear-x": Operation(lambda image, tangent: _shear(image, tangent, 0.0), 0.0, 0.99, signed=True),
    "shear-y": Operation(lambda image, tangent: _shear(image, 0.0, tangent), 0.0, 0.99, signed=True),
    "translate-x": Operation(lambda image, pixels: _translate(image, pixels, 0.0), 0.0, 32.0, signed=True),
    "translate-y": Operation(lambda image, pixels: _translate(image, 0.0, pixels), 0.0, 32.0, signed=True),
    "rotate": Operation(functional.rotate, 0.0, 135.0, signed=True),
    "brightness": Operation(lambda image, more: functional.adjust_brightness(image, 1 + more), 0.0, 0.99, signed=True),
    "colour": Operation(lambda image, more: functional.adjust_saturation(image, 1 + more), 0.0, 0.99, signed=True),
    "contrast": Operation(lambda image, more: functional.adjust_contrast(image, 1 + more), 0.0, 0.99, signed=True),
    "sharpness": Operation(lambda image, more: functional.adjust_sharpness(image, 1 + more), 0.0, 0.99, signed=True),
    "posterize": Operation(lambda image, bits: functional.posterize(image, int(bits)), 8.0, 2.0, whole=True),
    "solarize": Operation(lambda image, share: functional.solarize(image, 255 * share), 1.0, 0.0),
    "auto-contrast": Operation(lambda image, _: functional.autocontrast(image)),
    "equalize": Operation(lambda image, _: functional.equalize(image)),
}
"""The wide space of the paper, as torchvision's `TrivialAugmentWide` has it, in its order."""


def trivial_augment(
    images: UInt8[Tensor, "b h w 3"], index: Int64[Tensor, " b"], *, seed: int, epoch: int
) -> UInt8[Tensor, "b h w 3"]:
    """Each image changed by one operation of one magnitude, both uniform; what it uncovers is black.

    Müller and Hutter (ICCV 2021, arXiv:2103.10158), with the wide space.

    Args:
        images: of any size; translations are by up to 32 pixels whatever it is.
        index: dataset indices.
        seed: seed of the augmentation.
        epoch: number of the epoch, from 0.

    Departs from the authors' code, which applies it before crop and flip, and cuts a square out of CIFAR images last.
    """
    planes = images.permute(0, 3, 1, 2).contiguous()
    out = torch.empty_like(planes)
    # One image at a time: few in a batch share operation and magnitude, and a sum over a group could round otherwise.
    for target, image, (operation, magnitude) in zip(out, planes, choices(index, seed=seed, epoch=epoch), strict=True):
        target.copy_(OPERATIONS[operation].apply(image, magnitude))
    return out.permute(0, 2, 3, 1)


def choices(index: Int64[Tensor, " b"], *, seed: int, epoch: int) -> list[tuple[str, float]]:
    """The operation of each image, and its magnitude."""
    # On the host, where the operations are called from: an accelerator waits once for a batch.
    index = index.cpu()
    which, strength, sign = (
        integers(high, seed, _TRIVIAL, epoch, index, column).tolist()
        for column, high in ((_OPERATION, len(OPERATIONS)), (_STRENGTH, NUM_STRENGTHS), (_SIGN, 2))
    )
    names = list(OPERATIONS)
    chosen: list[tuple[str, float]] = []
    for number, step, negative in zip(which, strength, sign, strict=True):
        operation = OPERATIONS[names[number]]
        magnitude = float(operation.magnitudes()[step])
        chosen.append((names[number], -magnitude if operation.signed and negative else magnitude))
    return chosen
