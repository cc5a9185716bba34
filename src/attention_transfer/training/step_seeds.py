"""Global random generators, set from what a step or an epoch is and never from the past."""

import hashlib
import random

import numpy as np
import torch


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Every generator that a library may use inside a network starts each step from where it is, not from the past."""
    _seed_all(f"{seed} {epoch} {step} {rank}")


def seed_batch(seed: int, epoch: int, step: int, rank: int) -> None:
    """Likewise before a batch is drawn from somebody's loader."""
    _seed_all(f"batch {seed} {epoch} {step} {rank}")


def seed_of_epoch(seed: int, epoch: int) -> int:
    """Of a generator that draws the order of an epoch; the same for all processes."""
    return int.from_bytes(_digest(f"order {seed} {epoch}"), "little") >> 1


def _seed_all(words: str) -> None:
    digest = _digest(words)
    torch.manual_seed(int.from_bytes(digest, "little", signed=True))
    random.seed(digest)
    np.random.seed(int.from_bytes(digest[:4], "little"))


def _digest(words: str) -> bytes:
    return hashlib.blake2b(words.encode(), digest_size=8).digest()
