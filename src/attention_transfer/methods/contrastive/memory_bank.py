"""What a contrastive method remembers of other images: one embedding for each, or a queue of the latest ones.

>>> import torch
>>> draws_needed(torch.tensor([0, 0, 1, 1]), num_negatives=2) >= 2
True
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from attention_transfer.batch import UNLABELLED, Batch
from attention_transfer.counter_rng import uniform
from attention_transfer.errors import InputError
from attention_transfer.memory_budget import memory_of
from attention_transfer.methods.layers.maps import unit
from attention_transfer.parallel import agreed, gathered

Role = Literal["student", "teacher"]
ROLES: tuple[Role, Role] = ("student", "teacher")
_EMPTY = -1  # no class
_BYTES = 4  # of a float32
_PIECE = 2**16  # entries that are drawn at once
# While a distiller is built there are two copies of a bank, and something must be left for networks and images.
_LARGEST_SHARE = 0.4


@dataclass(frozen=True)
class Others:
    """What a batch is compared with.

    Args:
        same: for each network, what is remembered of the images of the batch.
        drawn: for each network, what is remembered of other images, the same ones for the whole batch.
        differ: which of those are of another class than each image.
    """

    same: Mapping[Role, Float[Tensor, "b d"]]
    drawn: Mapping[Role, Float[Tensor, "k d"]]
    differ: Bool[Tensor, "b k"]


class Bank(nn.Module):
    """One embedding of each network for every training image.

    It is the same in all processes by itself: it starts from numbers that belong to the place of each entry, and every
    process remembers the images of all.

    Args:
        labels: class indices of the training images.
        dimensions: of an embedding.
        num_negatives: how many of other classes an image shall have on average.
        momentum: share of the old embedding that an update keeps.

    Raises:
        ValueError: for labels without a second class, or a bank that its device cannot hold.
    """

    equal_in_all_processes = True

    def __init__(self, labels: Int64[Tensor, " n"], dimensions: int, num_negatives: int, momentum: float) -> None:
        super().__init__()
        check_classes(labels)
        check_memory(len(labels), dimensions, labels.device)
        self.momentum = momentum
        self._compared = False
        self.labels: Tensor
        # Known again from the data whenever training goes on.
        self.register_buffer("labels", labels.clone(), persistent=False)
        self.num_drawn = draws_needed(labels, num_negatives)
        for stream, role in enumerate(ROLES):
            self.register_buffer(role, _start(len(labels), dimensions, stream, labels.device))

    def check_memory(self, device: torch.device) -> None:
        """Refuse a device that cannot hold it.

        Args:
            device: where it is going to live.

        Raises:
            ValueError: it takes most of the device's memory.
        """
        entries = self.get_buffer(ROLES[0])
        check_memory(len(entries), entries.shape[1], device)

    @property
    def num_images(self) -> int:
        """Of the training set."""
        return len(self.labels)

    def others(self, batch: Batch, embeddings: Mapping[Role, Float[Tensor, "b d"]]) -> Others:
        """What a batch is compared with: the entries of its images, and those of images that are drawn.

        Raises:
            ValueError: if the first batch in training has other labels than the training images in its places.
        """
        del embeddings
        assert batch.index is not None
        if self.training and not self._compared and not torch.compiler.is_compiling():
            self._compare(batch)
        drawn = agreed(torch.randperm(self.num_images, device=batch.index.device)[: self.num_drawn])
        entries: dict[Role, Tensor] = {role: self.get_buffer(role) for role in ROLES}
        return Others(
            {role: kept[batch.index] for role, kept in entries.items()},
            {role: kept[drawn] for role, kept in entries.items()},
            self.labels[batch.index][:, None] != self.labels[drawn],
        )

    @torch.no_grad()
    def remember(self, batch: Batch, embeddings: Mapping[Role, Float[Tensor, "b d"]]) -> None:
        """Move the entries of a batch towards its embeddings; what is remembered keeps unit norm."""
        assert batch.index is not None
        places = gathered(batch.index)
        for role in ROLES:
            entries = self.get_buffer(role)
            new = gathered(embeddings[role].detach()).to(entries.dtype)
            entries.index_copy_(0, places, unit(self.momentum * entries[places] + (1 - self.momentum) * new))

    def _compare(self, batch: Batch) -> None:
        """Once, because asking a device what it holds makes it wait."""
        assert batch.index is not None
        lowest, highest = int(batch.index.min()), int(batch.index.max())
        if lowest < 0 or highest >= self.num_images:
            raise InputError(
                f"index has dataset indices from {lowest} to {highest}, and train_labels are those of {self.num_images}"
                " images: give each image's dataset index among these, from 0"
            )
        # Smoothed labels are shares of all classes.
        if batch.label is None or batch.label.ndim != 1:
            self._compared = True
            return
        others = (self.labels[batch.index] != batch.label) & (batch.label != UNLABELLED)
        if bool(others.any()):
            raise InputError(
                "the labels of this batch are not those that train_labels has in the places that index gives: both "
                "must count the training images in the same order"
            )
        self._compared = True


class Queue(nn.Module):
    """The latest embeddings of each network, with their classes, for data sets of which a bank does not fit.

    Args:
        length: how many, at least 1.
        dimensions: of an embedding.
    """

    equal_in_all_processes = True

    def __init__(self, length: int, dimensions: int) -> None:
        super().__init__()
        for role in ROLES:
            self.register_buffer(role, torch.zeros(length, dimensions))
        self.labels: Tensor
        self.register_buffer("labels", torch.full((length,), _EMPTY))

    @property
    def num_images(self) -> int:
        """Among which negatives are found."""
        return len(self.labels)

    def others(self, batch: Batch, embeddings: Mapping[Role, Float[Tensor, "b d"]]) -> Others:
        """What a batch is compared with: its own images as the other network sees them, and the queue."""
        assert batch.label is not None
        own: dict[Role, Tensor] = {role: embeddings[role].detach() for role in ROLES}
        labels = torch.cat([gathered(batch.label), self.labels])
        return Others(
            own,
            {role: torch.cat([gathered(own[role]), self.get_buffer(role)]) for role in ROLES},
            # Of which class an image without a label is, and of which it is not, is not known.
            (batch.label[:, None] != labels) & (labels >= 0) & (batch.label >= 0)[:, None],
        )

    @torch.no_grad()
    def remember(self, batch: Batch, embeddings: Mapping[Role, Float[Tensor, "b d"]]) -> None:
        """Put a batch in front and drop as many of the oldest."""
        assert batch.label is not None
        for role in ROLES:
            entries = self.get_buffer(role)
            new = gathered(embeddings[role].detach()).to(entries.dtype)
            entries.copy_(torch.cat([new, entries])[: len(entries)])
        self.labels.copy_(torch.cat([gathered(batch.label), self.labels])[: len(self.labels)])


def draws_needed(labels: Int64[Tensor, " n"], num_negatives: int) -> int:
    """How many images to draw so that an average one has so many negatives among them; at most all there are."""
    shares = torch.bincount(labels).double() / len(labels)
    other = 1 - float(shares.square().sum())
    return min(len(labels), round(num_negatives / other))


def check_classes(labels: Int64[Tensor, " n"]) -> None:
    """Refuse labels that leave a class without negatives.

    Raises:
        ValueError: if all are of one class.
    """
    classes: Sequence[int] = labels.unique().tolist()
    if len(classes) < 2:
        which = f"class {classes[0]}" if classes else "no class"
        raise InputError(
            f"contrastive transfer compares images with those of other classes, and all {len(labels)} training images "
            f"are of {which}, which has no negatives: train on two classes or more, or use another method"
        )


def check_memory(count: int, dimensions: int, device: torch.device) -> None:
    """Refuse a bank that a device cannot hold.

    Args:
        count: of training images.
        dimensions: of an embedding.
        device: where it is to live.

    Raises:
        ValueError: if two of it take more than most of the memory; says how much.
    """
    wanted, there = len(ROLES) * count * dimensions * _BYTES, memory_of(device)
    if there is not None and wanted > _LARGEST_SHARE * there:
        raise InputError(
            f"a bank of two embeddings of {dimensions} numbers for each of {count:,} training images takes "
            f"{_size(wanted)}, twice that while it is built, and {device} has {_size(there)} in all: use "
            "memory='queue', which keeps the latest embeddings only, or fewer dimensions"
        )


def _start(count: int, dimensions: int, stream: int, device: torch.device) -> Float[Tensor, "n d"]:
    """Numbers of which an entry has a norm of about 1, each a function of its place alone."""
    entries = torch.empty(count, dimensions, device=device)
    columns = torch.arange(dimensions, device=device)
    # In pieces: hashing takes eight bytes and several copies for each number.
    for first in range(0, count, _PIECE):
        piece = entries[first : first + _PIECE]
        places = torch.arange(first, first + len(piece), device=device)
        piece.copy_((2 * uniform(0, stream, places[:, None], columns) - 1) * (3 / dimensions) ** 0.5)
    return entries


def _size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.3g} MiB"
