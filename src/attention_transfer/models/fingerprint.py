"""Telling a network by its weights from others, and one way of reading it from another.

>>> from torch import nn
>>> layer = nn.Linear(2, 2)
>>> len(fingerprint(layer)), fingerprint(layer) == fingerprint(layer.double())
(32, True)

A method that keeps something of its teacher between runs asks for the fingerprint, and knows the teacher again by it:

>>> from attention_transfer.methods import Request
>>> Request(provide=(WeightFingerprint(),)).anything
True
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from attention_transfer.capture import Provider, Reading, ReadNetwork, Tap


@dataclass(frozen=True)
class Fingerprint:
    """By what a network is known again.

    Args:
        weights: 32 bytes that depend on its weights and buffers alone.
        reading: 32 bytes that depend on the taps of a method, and on how its images are normalised.
    """

    weights: bytes
    reading: bytes


@dataclass(frozen=True)
class WeightFingerprint(Provider[Fingerprint]):
    """A fingerprint of the weights that a network came with, and of how it is read."""

    def bound(self, network: ReadNetwork, taps: Sequence[Tap]) -> Callable[[Reading], Fingerprint]:
        """Computed once, with the first reading."""
        return partial(_first, network, taps, list[Fingerprint]())


def _first(network: ReadNetwork, taps: Sequence[Tap], found: list[Fingerprint], reading: Reading) -> Fingerprint:
    # Made by the probe first of all, so of the weights as they came, whatever device or type they go to.
    del reading
    if not found:
        found.append(Fingerprint(fingerprint(network.model), fingerprint_of_reading(taps, network.expects)))
    return found[0]


def fingerprint(model: nn.Module) -> bytes:
    """32 bytes that are the same for the same weights and buffers under the same names, and for no others.

    Weights in double precision that float32 can hold are the same there.

    Args:
        model: any network; read, not run.
    """
    digest = hashlib.blake2b(digest_size=32)
    # What modules keep beside weights and buffers may be anything, and need not be the same twice.
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name, value in sorted(tensors.items()):
        if value.dtype == torch.float64 and torch.equal(value.float().double(), value):
            value = value.float()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()


def fingerprint_of_reading(taps: Sequence[Tap], images: object) -> bytes:
    """32 bytes that are the same for the same places in a network, however they were chosen, and the same images.

    Args:
        taps: places, in order.
        images: the `Input` that it expects; None where it was not said.
    """
    places = [str(tap) for tap in taps]
    return hashlib.blake2b(repr((places, images)).encode(), digest_size=32).digest()
