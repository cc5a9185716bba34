"""Small and untrained networks, for trying out whether an experiment runs.

>>> smaller("resnet8", 32)
'resnet8'
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import nn

from attention_transfer.capture import noise
from attention_transfer.errors import InputError, needing
from attention_transfer.models.build import build
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.naming import parse_name, split_weights, written

# Where timm keeps networks of blocks that are all alike, over patches that are cut out once.
_MODULES = ("vision_transformer", "deit")
# Of each head: networks with 16 of them are then 128 wide.
_HEAD_CHANNELS = 8


@cache
def smaller(spec: str, image_size: int) -> str:
    """A vision transformer with narrow heads and few patches; any other network as it is.

    Layers, heads and the tokens before the patches stay as many as they were, so that what is said about them still
    holds, and networks that fitted each other still do. Each head has 8 channels, and along each side of the image lie
    about half as many patches as the network was made for.

    Args:
        spec: a model as it is written on the command line. Only plain vision transformers of timm are made smaller;
            weights do not fit them any more, and what stands behind their @ is left out.
        image_size: side in pixels that the network shall be built for.

    Raises:
        ValueError: for a vision transformer that cannot be built as it is written.
    """
    name, _ = split_weights(spec)
    if not name.startswith("timm:"):
        return spec
    with needing(name, "timm"):
        import timm

    parsed = parse_name(name)
    if not timm.models.is_model_in_modules(parsed.inner.partition(".")[0], _MODULES):
        return spec
    model = cast(Any, outline(lambda: build(_named(parsed.inner, parsed.arguments), 1)))
    patches = max(1, min(model.patch_embed.grid_size) // 2)
    arguments = {
        **parsed.arguments,
        "img_size": image_size,
        "patch_size": max(1, image_size // patches),
        "embed_dim": _HEAD_CHANNELS * model.blocks[0].attn.num_heads,
    }
    return _named(parsed.inner, arguments)


def _named(inner: str, arguments: Mapping[str, Any]) -> str:
    return f"timm:{inner}({written(arguments).removeprefix(', ')})"


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
