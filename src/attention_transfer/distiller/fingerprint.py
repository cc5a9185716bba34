"""Telling a network by its weights from others, and one way of reading it from another."""

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from attention_transfer.capture import Tap
from attention_transfer.models import Input


def fingerprint(model: nn.Module) -> bytes:
    """32 bytes that are the same for the same weights and buffers under the same names, and for no others.

    Weights in double precision that float32 can hold are the same there.

    Args:
        model: any network; read, not run.
    """
    digest = hashlib.blake2b(digest_size=32)
    for name, value in sorted(model.state_dict().items()):
        if value.dtype == torch.float64 and torch.equal(value.float().double(), value):
            value = value.float()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()


def fingerprint_of_reading(taps: Sequence[Tap], images: Input | None) -> bytes:
    """32 bytes that are the same for the same places in a network, however they were chosen, and the same images.

    Args:
        taps: places, in order.
        images: how they are normalised for it; None where nobody said.
    """
    places = [str(tap) for tap in taps]
    return hashlib.blake2b(repr((places, images)).encode(), digest_size=32).digest()
