"""How the tokens of a transformer lie: those before the patches, and the patches themselves; nothing is run.

>>> pair_of(16), pair_of((8, 4)), pair_of("16")
((16, 16), (8, 4), None)
"""

import re
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from attention_transfer.capture.patch_grid import Patch

# Networks of several branches or stages number those of each.
_PREFIX_TOKENS = re.compile(
    "(cls_token|class_token|class_embedding|distillation_token|dist_token|register_tokens)"
    r"[._]?(?P<number>\d*)"
)
# They hold class tokens that join only after the blocks: in attention over classes, or in a last layer.
_LATE_CLASS_TOKEN = ("blocks_token_only", "cls_attn_blocks")


def prefix_tokens(model: nn.Module, stage: int) -> int:
    """Tokens before those of the patches at one stage.

    Args:
        model: the network itself, without a wrapper.
        stage: counted from 0.
    """
    if any(hasattr(model, name) for name in _LATE_CLASS_TOKEN) or stage < getattr(model, "local_up_to_layer", 0):
        return 0
    declared = getattr(model, "num_prefix_tokens", None)
    if isinstance(declared, int):
        return declared
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        match = _PREFIX_TOKENS.search(name)
        if match and match.end() == len(name):
            # Each branch and each stage has its own.
            kind = name[: match.start("number")]
            counts.setdefault(kind, parameter.shape[-2] if parameter.ndim > 1 else 1)
    return sum(counts.values())


def attention_grid(model: nn.Module) -> tuple[int, int] | None:
    """Rows and columns of the patches; None where they depend on the image, or are as many."""
    embed = getattr(model, "patch_embed", None)
    if embed is not None:
        grid = None if getattr(embed, "dynamic_img_pad", False) else getattr(embed, "grid_size", None)
        fixed = bool(getattr(embed, "strict_img_size", True))
    else:
        source = getattr(model, "config", model)
        image, patch = (pair_of(getattr(source, name, None)) for name in ("image_size", "patch_size"))
        grid = (image[0] // patch[0], image[1] // patch[1]) if image and patch else None
        fixed = True
    pair = pair_of(grid)
    # A square grid needs no saying, and stays right where the image's size may change.
    return pair if pair is not None and fixed and pair[0] != pair[1] else None


def patch_size(model: nn.Module, before: str) -> Patch | None:
    """Height and width, in pixels, of what becomes one token; None if it could not be determined.

    Args:
        model: the network itself, without a wrapper.
        before: path of a module that takes tokens.
    """
    embed = getattr(model, "patch_embed", None)
    image, grid = (pair_of(getattr(embed, name, None)) for name in ("img_size", "grid_size"))
    if image and grid and not image[0] % grid[0] and not image[1] % grid[1]:
        # What its patches are cut from may be smaller than the image.
        return image[0] // grid[0], image[1] // grid[1]
    strides = _strides(model, before)
    if strides is not None:
        return strides
    for source in (embed, getattr(model, "embeds", None), getattr(model, "config", None), model):
        declared = pair_of(getattr(source, "patch_size", None))
        if declared is not None:
            return declared
    return None


def _strides(model: nn.Module, before: str) -> Patch | None:
    """The strides of the convolutions, each taking what the one before it gives, that lie before a module."""
    rows = columns = 1
    channels: int | None = None
    for path, module in model.named_modules():
        if path == before or (before.startswith(f"{path}.") and path.rpartition(".")[2].isdigit()):
            break
        if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str):
            continue
        if channels is not None and module.in_channels != channels:
            return None
        rows, columns = rows * module.stride[0], columns * module.stride[1]
        channels = module.out_channels
    return None if channels is None else (rows, columns)


def pair_of(value: Any) -> tuple[int, int] | None:
    """A height and a width, where a value says them."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence):
        items = list(cast("Sequence[Any]", value))
        if len(items) == 2 and all(isinstance(item, int) for item in items):
            return items[0], items[1]
    return None
