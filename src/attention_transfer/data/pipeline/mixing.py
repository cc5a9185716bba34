"""Mixup, CutMix and label smoothing; every draw belongs to (seed, epoch, step, rank).

>>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
>>> mixed, probabilities = Mixing(mixup=0.4)(images, labels, 3, seed=0, epoch=0, step=0, rank=0)
>>> mixed.shape, probabilities.shape
(torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
>>> probabilities.sum(dim=1)
tensor([1., 1., 1., 1.])
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from attention_transfer.counter_rng import hashed
from attention_transfer.data.pipeline.library_rng import forked, seed_generators
from attention_transfer.errors import InputError

_MIXING = 7  # the stream of the hash


@dataclass(frozen=True)
class Mixing:
    """Mixup, CutMix and label smoothing of training batches; None leaves one out.

    With both, each batch is mixed in one of the two ways, at equal odds. Labels become class probabilities.

    Args:
        mixup: α > 0: images are blended in a proportion drawn from Beta(α, α) (Zhang et al., ICLR 2018,
            arXiv:1710.09412).
        cutmix: α > 0: a rectangle is taken from the other image, its share of the area drawn from Beta(α, α) (Yun et
            al., ICCV 2019, arXiv:1905.04899).
        label_smoothing: probability, 0 < s < 1, that is spread evenly over all classes.

    Raises:
        ValueError: a number is out of its range.
    """

    mixup: float | None = None
    cutmix: float | None = None
    label_smoothing: float | None = None

    def __post_init__(self) -> None:
        for name, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if alpha is not None and not 0 < alpha < math.inf:
                raise InputError(f"{name} must be a number α above 0, of Beta(α, α), not {alpha}; None leaves it out")
        if self.label_smoothing is not None and not 0 < self.label_smoothing < 1:
            raise InputError(
                f"label_smoothing must be 0 < s < 1, not {self.label_smoothing}; None leaves labels unchanged"
            )

    @property
    def mixes(self) -> bool:
        """Whether an image of a batch shows two images of the data set."""
        return self.mixup is not None or self.cutmix is not None

    @property
    def softens(self) -> bool:
        """Whether labels become class probabilities."""
        return self.mixes or self.label_smoothing is not None

    def __call__(
        self,
        images: Float32[Tensor, "b 3 h w"],
        labels: Int64[Tensor, " b"],
        num_classes: int,
        *,
        seed: int,
        epoch: int,
        step: int,
        rank: int,
    ) -> tuple[Float32[Tensor, "b 3 h w"], Float32[Tensor, "b k"]]:
        """Mix a batch with itself in reverse order, images in place.

        Args:
            images: normalised.
            labels: class indices.
            num_classes: number of classes of the data set.
            seed: seed of the augmentation.
            epoch: number of the epoch, from 0.
            step: number of the batch in its epoch.
            rank: rank of this process.
        """
        smoothing = self.label_smoothing or 0.0
        if not self.mixes:
            return images, mixup_target(labels, num_classes, smoothing=smoothing)
        mix = Mixup(self.mixup or 0.0, self.cutmix or 0.0, label_smoothing=smoothing, num_classes=num_classes)
        # timm pairs images up; the last of an odd number comes twice, once to be the partner of the first.
        count, odd = len(images), len(images) % 2
        if odd:
            images, labels = torch.cat([images, images[-1:]]), torch.cat([labels, labels[-1:]])
        with forked():
            seed_generators(int(hashed(seed, _MIXING, epoch, step, torch.tensor(rank))))
            images, probabilities = mix(images, labels)
        return images[:count], probabilities[:count]
