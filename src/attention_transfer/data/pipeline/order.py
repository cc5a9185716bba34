"""Order of training images and their share among processes: pure functions, so that runs resume anywhere.

>>> plan = Plan(num_images=10, batch_size=2, train=False, rank=1, world_size=2)
>>> [batch.tolist() for batch in plan.batches(epoch=0)]
[[1, 3], [5, 7], [9]]
>>> sorted(permutation(5, seed=0, epoch=3).tolist())
[0, 1, 2, 3, 4]
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from attention_transfer.counter_rng import hashed

_ORDER = 2  # the stream of the hash that orders images


@dataclass(frozen=True)
class Plan:
    """The batches of one process, as dataset indices.

    A global batch is the next `batch_size · world_size` images; process r takes every `world_size`-th of them, from the
    r-th on. The global batches therefore depend only on that product.

    Args:
        num_images: in the split.
        batch_size: images per batch and process, at least 1.
        train: each epoch has its own order, and a partial last global batch is dropped if it leaves a process fewer
            than the two images that batch normalisation needs. Otherwise images come in order and nothing is dropped;
            the last batches of processes may then differ in number.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.
    """

    num_images: int
    batch_size: int
    train: bool
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    @property
    def num_batches(self) -> int:
        """Batches of this process in every epoch."""
        full, last = divmod(self.num_images, self.batch_size * self.world_size)
        # All processes must have equally many batches in training, or the last would wait for ever.
        enough = last >= 2 * self.world_size if self.train else last > self.rank
        return full + enough

    def batches(self, epoch: int) -> list[Int64[Tensor, " _"]]:
        """The batches of an epoch."""
        order = torch.arange(self.num_images)
        if self.train:
            order = permutation(self.num_images, seed=self.seed, epoch=epoch)
        shares = [batch[self.rank :: self.world_size] for batch in order.split(self.batch_size * self.world_size)]
        return shares[: self.num_batches]


def permutation(num_images: int, *, seed: int, epoch: int) -> Int64[Tensor, " n"]:
    """All dataset indices in the order of an epoch."""
    # Stable, so that equal hashes give the same order on every device.
    return torch.argsort(hashed(seed, _ORDER, epoch, torch.arange(num_images)), stable=True)
