"""What the installed versions of other libraries have, and whether torch compiles a distiller."""

from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn

from attention_transfer.capture.opaque_modules import COMPILES_FROM, compiles


def skip_where_unknown(name: str) -> None:
    """Skip a test of a network of timm that came after the oldest version that is supported."""
    if name.startswith("timm:") and not timm.is_model(name.removeprefix("timm:")):
        pytest.skip(f"this version of timm has no {name}")


def before_blocks(network: nn.Module, images: Tensor) -> Tensor:
    """All tokens of timm's vision transformer as its first block takes them."""
    taken: list[Tensor] = []
    handle = network.get_submodule("norm_pre").register_forward_hook(lambda _, __, out: taken.append(out))
    cast(Any, network).forward_features(images)
    handle.remove()
    return taken[0]


def embedded(network: nn.Module, images: Tensor) -> Tensor:
    """The same of the plainest one, written out: a class token, and a place for every token."""
    plain = cast(Any, network)
    patches = plain.patch_embed(images)
    return torch.cat([plain.cls_token.expand(len(patches), -1, -1), patches], 1) + plain.pos_embed


# ---------------------------------------------------------------- tests that compile a distiller

compiled_whole = pytest.mark.skipif(not compiles(), reason=f"torch compiles no distiller before {COMPILES_FROM}")
