"""Networks without weights, which stand in for teachers where only trying things out matters."""

from typing import Any, cast

import torch
from torch import nn

from attention_transfer.capture import noise
from attention_transfer.errors import InputError

_IMAGES = 8


def settle_norms(model: nn.Module, size: tuple[int, int]) -> None:
    """Give batch norms the statistics of noise, as training would give them those of images.

    Until then they change nothing in evaluation mode, and the values in a deep network grow from block to block: by
    8 orders of magnitude in a ResNet-110, which no student can follow.

    Args:
        model: on its device; parameters and modes stay as they are.
        size: height and width of the images that it takes, in pixels.

    Raises:
        InputError: if it does not run on such images.
    """
    norms = [
        cast(Any, module)
        for module in model.modules()
        if getattr(module, "track_running_stats", False) and hasattr(module, "momentum")
    ]
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    parameter = next(model.parameters())
    try:
        model.eval()
        for norm in norms:
            # All of the new statistics, nothing of the old ones.
            norm.momentum = 1.0
            norm.train()
        with torch.no_grad():
            model(noise(parameter.new_empty(_IMAGES, 3, *size)))
    except (RuntimeError, ValueError, AssertionError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"a network without weights cannot be run on images of 3 channels and {size[0]}×{size[1]} pixels: {reason}"
        ) from error
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
