"""How many channels the images have that a network takes: every data set here delivers three.

>>> from attention_transfer import build
>>> check_channels(build("resnet8", 10), "resnet8", (32, 32))
"""

from typing import Any

import torch
from torch import nn

from attention_transfer.capture import noise, undisturbed
from attention_transfer.errors import InputError
from attention_transfer.models.build import bare

COLOURS = 3


def check_channels(model: nn.Module, name: str, size: tuple[int, int]) -> None:
    """Refuse a network that does not take images of three channels, in words of images.

    Args:
        model: on its device.
        name: for the message.
        size: height and width of its images, in pixels.

    Raises:
        InputError: if its first convolution takes another number of channels, and it does not run on three.
    """
    channels = _channels(model)
    if channels == COLOURS or _runs(model, size):
        return
    plural = "" if channels == 1 else "s"
    raise InputError(
        f"{name!r} takes images of {channels} channel{plural}, and data sets are delivered in {COLOURS} (grey ones "
        f"thrice the same): take a network for {COLOURS}, or train this one with Distiller and images of your own"
    )


def _channels(model: nn.Module) -> int:
    """As its library declares, or else as its first convolution takes them; three where neither says."""
    declared: Any = getattr(getattr(bare(model), "config", None), "num_channels", None)
    if isinstance(declared, int):
        return declared
    return next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), COLOURS)


def _runs(model: nn.Module, size: tuple[int, int]) -> bool:
    """Whether it takes colours all the same, as where another module than its first in name comes first."""
    with undisturbed(model), torch.no_grad():
        model.eval()
        try:
            model(noise(next(model.parameters()).new_empty(2, COLOURS, *size)))
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError):
            return False
    return True
