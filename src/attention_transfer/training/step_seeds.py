"""Seeding of the global random generators by step and epoch.

>>> seed_step(seed=0, epoch=1, step=2, rank=0)
>>> first = torch.rand(3)
>>> seed_step(seed=0, epoch=1, step=2, rank=0)
>>> torch.equal(torch.rand(3), first)
True
>>> seed_of_epoch(0, 1) == seed_of_epoch(0, 2)
False
"""

import hashlib
import random

import numpy as np
import torch


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed all global generators before a step, so that it does not depend on the steps before."""
    _seed_all(f"{seed} {epoch} {step} {rank}")


def seed_batch(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed all global generators before a batch is drawn from a user's loader."""
    _seed_all(f"batch {seed} {epoch} {step} {rank}")


def seed_of_epoch(seed: int, epoch: int) -> int:
    """Seed of the generator that draws the order of an epoch; the same for all processes."""
    return int.from_bytes(_digest(f"order {seed} {epoch}"), "little") >> 1


def _seed_all(words: str) -> None:
    digest = _digest(words)
    torch.manual_seed(int.from_bytes(digest, "little", signed=True))
    random.seed(digest)
    np.random.seed(int.from_bytes(digest[:4], "little"))


def _digest(words: str) -> bytes:
    return hashlib.blake2b(words.encode(), digest_size=8).digest()
