"""RandAugment, AugMix, AutoAugment, colour jitter and random erasing by timm, drawn by (seed, epoch, dataset index).

>>> Changes(auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25).of_pixels
True
>>> Changes(auto_augment="randaugment")
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: auto_augment 'randaugment' is none of timm's policies: begin with rand, ...
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image, ImageOps
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import ColorJitter

from attention_transfer.counter_rng import hashed
from attention_transfer.data.pipeline.library_rng import forked, seed_generators
from attention_transfer.errors import InputError

_COLOURS, _ERASING = 5, 6  # streams of the hash

_NUMBER = r"\d+(\.\d+)?"
_POLICIES = {
    "rand": (rf"(m\d+|n[1-9]\d*|p{_NUMBER}|mstd{_NUMBER}|mmax\d+|inc[01]|t(weights|3a|3aw))", rand_augment_transform),
    "augmix": (rf"(m\d+|w[1-9]\d*|d-?\d+|a{_NUMBER}|b[01]|mstd{_NUMBER})", augment_and_mix_transform),
    **dict.fromkeys(("original", "originalr", "v0", "v0r", "3a"), (rf"mstd{_NUMBER}", auto_augment_transform)),
}
_BITS = 8
_AUGMIX_TRANSLATION = 0.3  # of the width, as timm's own training pipeline has it


@dataclass(frozen=True)
class Changes:
    """Further augmentation of training images by timm; None leaves one out.

    Args:
        auto_augment: policy in timm's notation, as `rand-m9-mstd0.5-inc1`: RandAugment with 2 operations of magnitude
            9 ± 0.5 that grow with it; also `augmix-…`, and the AutoAugment policies `original`, `originalr`, `v0`,
            `v0r`, `3a`.
        colour_jitter: strength, above 0, of a random change of brightness, contrast and saturation: factors between
            1 − s, at least 0, and 1 + s.
        random_erasing: probability, 0 < p ≤ 1, that a rectangle of an image is replaced by noise after normalisation.

    Raises:
        ValueError: for words that timm does not know, a number out of its range, or policy and jitter together.
    """

    auto_augment: str | None = None
    colour_jitter: float | None = None
    random_erasing: float | None = None

    def __post_init__(self) -> None:
        if self.auto_augment is not None:
            _check_policy(self.auto_augment)
        if self.colour_jitter is not None and not 0 < self.colour_jitter < math.inf:
            raise InputError(f"colour_jitter must be above 0, not {self.colour_jitter}; None leaves colours unchanged")
        if self.random_erasing is not None and not 0 < self.random_erasing <= 1:
            raise InputError(f"random_erasing must be a probability 0 < p ≤ 1, not {self.random_erasing}")
        if self.auto_augment is not None and self.colour_jitter is not None:
            raise InputError(
                "auto_augment changes colours itself, and timm leaves colour_jitter out beside it: give one of them"
            )

    @property
    def of_pixels(self) -> bool:
        """Whether images are changed before they are normalised: one by one, on the host."""
        return self.auto_augment is not None or self.colour_jitter is not None

    def change_pixels(
        self,
        images: UInt8[Tensor, "b h w 3"],
        index: Int64[Tensor, " b"],
        mean: tuple[float, float, float],
        *,
        seed: int,
        epoch: int,
    ) -> UInt8[Tensor, "b h w 3"]:
        """Each image under the policy or the jitter.

        Cubuk et al. (RandAugment, NeurIPS 2020, arXiv:1909.13719), in timm's variant with noise on the magnitude.

        Args:
            images: cropped and mirrored.
            index: dataset indices.
            mean: of the colour channels, images in 0…1, with which a policy fills what it uncovers.
            seed: seed of the augmentation.
            epoch: number of the epoch, from 0.
        """
        change = _change(self.auto_augment, self.colour_jitter, images.shape[1], mean)
        pixels = images.cpu().numpy()
        out = np.empty_like(pixels)
        with forked():
            for target, image, number in zip(out, pixels, _numbers(index, seed, _COLOURS, epoch), strict=True):
                seed_generators(number)
                target[:] = np.asarray(change(Image.fromarray(image)))
        return torch.from_numpy(out).to(images.device)

    def erase(
        self, images: Float32[Tensor, "b 3 h w"], index: Int64[Tensor, " b"], *, seed: int, epoch: int
    ) -> Float32[Tensor, "b 3 h w"]:
        """Rectangles of 2–33 % of the area replaced by normal noise, pixel by pixel, in place.

        Zhong et al. (AAAI 2020, arXiv:1708.04896), as timm has it; a given probability is that of each image.

        Args:
            images: normalised.
            index: dataset indices.
            seed: seed of the augmentation.
            epoch: number of the epoch, from 0.
        """
        if self.random_erasing is None:
            return images
        erase = RandomErasing(self.random_erasing, mode="pixel", device=cast(Any, images.device))
        with forked(images.device):
            for image, number in zip(images, _numbers(index, seed, _ERASING, epoch), strict=True):
                seed_generators(number, images.device)
                erase(image)
        return images


@lru_cache(maxsize=8)
def _change(policy: str | None, jitter: float | None, side: int, mean: tuple[float, float, float]) -> Any:
    if policy is None:
        return ColorJitter(*[cast(float, jitter)] * 3)
    settings: dict[str, Any] = {
        "translate_const": int(0.45 * side),
        "img_mean": tuple(min(255, round(255 * channel)) for channel in mean),
        "interpolation": Image.Resampling.BICUBIC,
    }
    name = policy.partition("-")[0]
    if name == "augmix":
        settings["translate_pct"] = _AUGMIX_TRANSLATION
    transform = _POLICIES[name][1](policy, settings)
    for operation in _operations(transform):
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return transform


def _operations(transform: Any) -> list[Any]:
    """The operations that a transform of timm draws from."""
    return transform.ops if hasattr(transform, "ops") else [each for policy in transform.policy for each in policy]


def _posterize(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """Black where no bit is kept, as timm asks at its largest magnitude: newer versions of Pillow refuse that."""
    del settings
    if bits >= _BITS:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def _check_policy(policy: str) -> None:
    name, *sections = policy.split("-")
    if name not in _POLICIES:
        raise InputError(
            f"auto_augment {policy!r} is none of timm's policies: begin with {', '.join(_POLICIES)}, as in "
            "rand-m9-mstd0.5-inc1"
        )
    # timm passes over what it does not understand.
    strange = [section for section in sections if not re.fullmatch(_POLICIES[name][0], section)]
    if strange:
        raise InputError(
            f"auto_augment {policy!r} has parts that timm does not know for {name}: {', '.join(strange)}; write it as "
            "in rand-m9-mstd0.5-inc1"
        )


def _numbers(index: Int64[Tensor, " b"], seed: int, stream: int, epoch: int) -> list[int]:
    return hashed(seed, stream, epoch, index.cpu()).tolist()
