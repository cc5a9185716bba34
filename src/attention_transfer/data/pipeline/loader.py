"""Loader of training and evaluation batches, augmented and normalised on the network's device.

>>> import numpy as np
>>> grey = (0.5, 0.5, 0.5)
>>> split = Split(np.full((5, 8, 8, 3), 255, np.uint8), np.array([0, 1, 0, 1, 0]))
>>> dataset = DataSet("mine", ("cat", "dog"), split, None, split, grey, grey, 8, photographs=False)
>>> batches = list(loader(split, dataset, batch_size=2, train=False).epoch(0))
>>> [batch.index.tolist() for batch in batches]
[[0, 1], [2, 3], [4]]
>>> float(batches[0].image.mean())  # white, normalised by mean and deviation of 0.5
1.0
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from attention_transfer.batch import Batch
from attention_transfer.data.dataset import DataSet, Split
from attention_transfer.data.pipeline.image_files import delivered, stored
from attention_transfer.data.pipeline.mixing import Mixing
from attention_transfer.data.pipeline.order import Plan
from attention_transfer.data.pipeline.pixels import Files, Memory
from attention_transfer.data.pipeline.preparation import Augmentation, Cut, Preparation
from attention_transfer.data.pipeline.timm_augment import Changes
from attention_transfer.errors import InputError


def loader(
    split: Split,
    dataset: DataSet,
    *,
    batch_size: int,
    train: bool,
    augment: Augmentation | Literal["auto"] = "auto",
    changes: Changes | None = None,
    mixing: Mixing | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    channels_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> "Loader":
    """Loader of the batches of a split.

    Args:
        split: images and labels.
        dataset: data set of the split; has the size of the images and their normalisation.
        batch_size: images per batch and process; at least 1, for training at least 2.
        train: whether batches are shuffled and augmented, without a last batch too small for batch normalisation; if
            not, all images come in order and unchanged.
        augment: augmentation of training images. `crop` shifts an image by up to an eighth of its side and pads with
            black before normalisation (4 pixels of 32: the CIFAR protocol); `crop-flip` also mirrors half of them;
            `reflect-crop-flip` pads with the image's own reflection; `trivial-augment` is `crop-flip` followed by one
            operation of TrivialAugment; `random-resized-crop` takes crops of random area and shape, and mirrors half
            of them. `auto` is the last for photographs and `crop-flip` for the rest, but `crop` where mirrored images
            leave their class.
        changes: further augmentation of training images; None means nothing.
        mixing: mixup, CutMix and label smoothing of training batches; None means none.
        seed: seed of order and augmentation.
        device: device of the batches; images in memory are moved there once, as bytes.
        num_workers: processes that decode files; they change nothing in the batches.
        channels_last: memory format of the images.
        rank: rank of this process.
        world_size: number of processes that share each global batch.

    Raises:
        ValueError: a number is out of its range, or training has too few images for a single batch.
    """
    plan = _plan(len(split), batch_size, train, seed, rank, world_size, dataset.name)
    if augment == "auto":
        augment = "random-resized-crop" if dataset.photographs else "crop-flip" if dataset.mirrored else "crop"
    if not train:
        augment, changes, mixing = "none", None, None
    device = torch.device(device)
    preparation = Preparation(
        Cut(augment, dataset.image_size, seed, changes or Changes(), dataset.mean),
        mean=torch.tensor(dataset.mean, device=device).reshape(1, 3, 1, 1),
        std=torch.tensor(dataset.std, device=device).reshape(1, 3, 1, 1),
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    source = _pixels(split, dataset, augment, num_workers, device)
    labels = torch.from_numpy(split.labels).to(device)
    return Loader(source, labels, plan, preparation, mixing or Mixing(), dataset.num_classes)


def _plan(count: int, batch_size: int, train: bool, seed: int, rank: int, world_size: int, name: str) -> Plan:
    least = 2 if train else 1
    if batch_size < least:
        raise InputError(f"{'training' if train else 'evaluation'} needs batches of at least {least}, not {batch_size}")
    if not 0 <= rank < world_size:
        raise InputError(f"rank {rank} is not one of {world_size} processes: ranks go from 0 to world_size − 1")
    plan = Plan(count, batch_size, train, seed, rank, world_size)
    if train and not plan.num_batches:
        raise InputError(
            f"{count} training images of {name} do not give each of {world_size} processes a batch of 2: use more "
            "images"
        )
    return plan


def _pixels(
    split: Split, dataset: DataSet, augment: Augmentation, num_workers: int, device: torch.device
) -> Memory | Files:
    if not isinstance(split.images, tuple):
        return Memory(split, device)
    form = (delivered if augment == "none" else stored)(
        dataset.image_size, photographs=dataset.photographs, decoding=dataset.decoding
    )
    return Files(split.images, form, num_workers, device)


class Loader:
    """Batches of a split, epoch by epoch; made by `loader`. Nothing in it changes, so there is no state to save."""

    def __init__(
        self,
        source: Memory | Files,
        labels: Int64[Tensor, " n"],
        plan: Plan,
        preparation: Preparation,
        mixing: Mixing,
        num_classes: int,
    ) -> None:
        self._source = source
        self._labels = labels
        self._plan = plan
        self._preparation = preparation
        self._mixing = mixing
        self._num_classes = num_classes

    @property
    def num_batches(self) -> int:
        """Batches that every epoch has."""
        return self._plan.num_batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch: a function of seed and epoch.

        Args:
            epoch: number of the epoch, from 0.
            start: number of the first batch to yield; earlier ones cost nothing.
        """
        batches = self._plan.batches(epoch)[start:]
        if not batches:
            return
        # One transfer per epoch: a transfer per step would make the host wait for the accelerator.
        indices = torch.cat(batches).to(self._labels.device).split([len(batch) for batch in batches])
        squares = self._squares(batches, indices, epoch)
        for step, (index, square) in enumerate(zip(indices, squares, strict=True), start=start):
            images, labels = self._preparation(square, index, epoch), self._labels[index]
            if self._mixing.softens:
                images, labels = self._mixing(
                    images,
                    labels,
                    self._num_classes,
                    seed=self._plan.seed,
                    epoch=epoch,
                    step=step,
                    rank=self._plan.rank,
                )
            yield Batch(images, labels, index)

    def _squares(
        self, batches: Sequence[Int64[Tensor, " _"]], indices: Sequence[Int64[Tensor, " _"]], epoch: int
    ) -> Iterator[Tensor]:
        """Pixels of the batches, cropped; `indices` are their dataset indices on the device."""
        cut = self._preparation.cut
        if isinstance(self._source, Files) and cut.changes.of_pixels:
            # One image at a time, on a CPU in any case: by the processes that decode.
            return self._source.finished_batches(batches, partial(cut, epoch=epoch))
        pixels = self._source.batches(indices if isinstance(self._source, Memory) else batches)
        return (cut(images, sizes, index, epoch) for index, (images, sizes) in zip(indices, pixels, strict=True))
