"""The attention layers of a network: which there are, and which of them can be read."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture import Places, Tap, noise
from attention_transfer.capture.attention_search import FoundAttention, find_attention
from attention_transfer.errors import InputError
from attention_transfer.models.introspection.describe import network_of
from attention_transfer.models.introspection.description import Description
from attention_transfer.models.introspection.layouts import such_as, tokens_seen
from attention_transfer.models.introspection.stages import has_attention
from attention_transfer.models.introspection.tokens import attention_grid, pair_of, patch_size, prefix_tokens

_NUMBERED = re.compile(r"(.*?)(\d+)")
# What says most about a layer comes first: query and key, the map as it is used, a softmax on the way to it.
_BEST_FIRST = ("attention", "map", "softmax")
_SHOWN = 6
_CLASS_TOKEN = ("cls_token", "class_token", "class_embedding")
# They mix channels, not tokens, by maps that look alike (XCiT, EdgeNeXt, DaViT).
_OVER_CHANNELS = re.compile("XCA|CrossCovarianceAttn|ChannelAttention.*")
# Those whose windows are known to be squares, row by row.
_SHIFTED_WINDOWS = re.compile("SwinTransformer.*Block|ShiftedWindowAttention.*")


def with_attention(
    description: Description, model: nn.Module, image: Float[Tensor, "b 3 h w"], role: str
) -> Description:
    """A network's description with its attention layers, found by running it once on noise.

    Example:
        >>> import torch
        >>> from attention_transfer.models import build, describe
        >>> model = build("timm:vit_tiny_patch16_224(img_size=32, patch_size=8, depth=2)", 4)
        >>> description = with_attention(describe(model), model, torch.empty(1, 3, 32, 32), "teacher")
        >>> [str(tap) for tap in attention_layers(description, "teacher")]
        ['attention of blocks.0.attn', 'attention of blocks.1.attn']

    A layer is a place of self-attention inside a numbered block. Calls outside of blocks (attention pooling) and those
    of a few queries over all tokens (class attention) are listed apart; so are blocks that hold attention of which
    nothing could be read.

    Args:
        description: of the network.
        model: left as it was.
        image: of the shape, type and device of training, as this network receives it; its values are not looked at.
        role: `teacher` or `student`, for messages.

    Raises:
        CaptureError: if it cannot run on such images.
    """
    batch = noise(image)
    seen: dict[str, list[FoundAttention]] = {}
    for found in find_attention(model, batch, role):
        if not _over_channels(model, found.module):
            seen.setdefault(_block(found.module) or found.module, []).append(found)
    layers: list[FoundAttention] = []
    elsewhere: list[FoundAttention] = []
    for block, places in seen.items():
        best = min((place.site for place in places), key=_BEST_FIRST.index)
        for place in places:
            if place.site == best:
                whole = place.is_self_attention and place.calls == 1 and _block(block) != ""
                (layers if whole else elsewhere).append(place)
    # In blocks of class attention there is nothing else to read.
    read = [place.module for place in (*layers, *(place for place in elsewhere if place.shape[2] == 1))]
    return replace(
        description,
        attention=tuple(
            _tap(model, place, index, len(batch), layers[0].module, description.places)
            for index, place in enumerate(layers)
        ),
        attention_elsewhere=tuple(Tap(place.module, place.site) for place in elsewhere),
        attention_unread=tuple(
            block for block in _attention_blocks(model) if not any(_within(module, block) for module in read)
        ),
    )


def attention_layers(description: Description, role: str, named: Sequence[str] | None = None) -> tuple[Tap, ...]:
    """The attention layers of a network, input to output.

    Args:
        description: with attention, see `with_attention`.
        role: `teacher` or `student`, for messages.
        named: modules chosen by the user instead of all layers: the attention module, its softmax, or the module that
            its map is handed to. They may lie outside of blocks.

    Raises:
        ValueError: if there are none, if blocks hold attention that cannot be read, or a name is not among the places
            where attention was seen.
    """
    if named is not None:
        places = {tap.module: tap for tap in (*description.attention, *description.attention_elsewhere)}
        strange = [name for name in named if Tap("").at(name).module not in places]
        if strange or not named:
            raise InputError(
                f"no attention of the {role} can be read at {', '.join(strange) or '(no name given)'}; it was seen at "
                f"{_listed(list(places)) or 'no module'}"
            )
        return tuple(places[Tap("").at(name).module].at(name) for name in named)
    if description.attention_unread:
        raise InputError(_unread(description, role))
    if not description.attention:
        elsewhere = f"; outside of blocks there is {_listed(_places(description))}" if _places(description) else ""
        raise InputError(
            f"the {role} has no self-attention layers that can be read, so no attention patterns can be transferred: "
            f"use a vision transformer, or a method for convolutional networks such as AttentionTransfer{elsewhere}"
        )
    return description.attention


def _unread(description: Description, role: str) -> str:
    """Why some blocks keep a network from being read, and what can be done about it."""
    unread = description.attention_unread
    merged = [block for block in unread if any(_within(tap.module, block) for tap in description.attention_elsewhere)]
    by_hand = (
        "there it mixes channels, or is written by hand in a form that is neither torch's fused attention nor one "
        "softmax over (batch, heads, queries, keys). Open the network with fused attention (transformers: "
        "attn_implementation='sdpa'; nn.MultiheadAttention: call it with need_weights=False), or "
    )
    fewer = f"queries or keys are merged, or looked at several times, in {_listed(merged)}. Instead, "
    names = [tap.name for tap in description.attention]
    settings = f"layers.{role}_modules (AttentionLinks: {role}_layers)"
    name = f"name the layers to use in {settings}{such_as(tuple(names[:_SHOWN]))}"
    other = "use a method that reads no attention, such as AttentionTransfer"
    return (
        f"the {role} has {len(unread)} blocks whose attention cannot be read, {_listed(unread)}, beside {len(names)} "
        f"that can: {fewer if merged else by_hand}{name if names else other}"
    )


def _places(description: Description) -> list[str]:
    return [tap.module for tap in (*description.attention, *description.attention_elsewhere)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _over_channels(model: nn.Module, path: str) -> bool:
    """Whether a module, or the one that it belongs to, mixes channels."""
    owners = (path, path.rpartition(".")[0])
    return any(_OVER_CHANNELS.fullmatch(type(model.get_submodule(owner)).__name__) for owner in owners)


def _block(path: str) -> str:
    """The innermost numbered module that a module lies in, such as `blocks.3` or `encoder_layer_3`; empty for none."""
    names = path.split(".")
    numbered = [i for i, name in enumerate(names) if _NUMBERED.fullmatch(name)]
    return ".".join(names[: numbered[-1] + 1]) if numbered else ""


def _attention_blocks(model: nn.Module) -> list[str]:
    """Numbered modules that hold attention and no smaller ones that do."""
    holding = [
        path for path, module in model.named_modules() if path and _block(path) == path and has_attention(module)
    ]
    return [path for path in holding if not any(other != path and _within(other, path) for other in holding)]


def _within(path: str, block: str) -> bool:
    return path == block or path.startswith(f"{block}.")


def _tap(model: nn.Module, place: FoundAttention, index: int, batch: int, first: str, places: Places | None) -> Tap:
    tap = Tap(place.module, place.site, "tokens")
    shift, padded = _windows(model, place, batch)
    if place.shape[0] != batch:
        # Windows lie in the batch; they hold neither class tokens nor the grid of the image.
        return replace(tap, grid=_window(model, place), class_tokens=0, window_shift=shift, padded=padded)
    within, network = network_of(model)
    grid = attention_grid(network)
    tap = replace(
        tap,
        prefix_tokens=prefix_tokens(network, index),
        patch=patch_size(network, first.removeprefix(f"{within}.")),
        padded=padded,
    )
    if grid is not None and grid[0] * grid[1] + tap.prefix_tokens == place.shape[2]:
        tap = replace(tap, grid=grid)
    if places is not None:
        seen = tokens_seen(places, place.shape[2], tap)
        tap = replace(tap, in_rows=False) if seen is None else seen
    return replace(tap, class_tokens=_class_tokens(model) if tap.prefix_tokens else 0)


def _window(model: nn.Module, place: FoundAttention) -> tuple[int, int] | None:
    """Rows and columns of windowed attention, where the windows are no squares.

    Read from the module around it; None where it does not say.
    """
    path = place.module
    while path:
        sides = pair_of(getattr(model.get_submodule(path), "window_size", None))
        if sides is not None and sides[0] * sides[1] == place.shape[2]:
            return sides if sides[0] != sides[1] else None
        path = path.rpartition(".")[0]
    return None


def _windows(model: nn.Module, place: FoundAttention, batch: int) -> tuple[tuple[int, int] | None, bool]:
    """By how much a Swin transformer shifts the image before it cuts windows, and whether it padded the image.

    None for other networks, and for images that are no squares.
    """
    path = place.module
    while path:
        module = model.get_submodule(path)
        if _SHIFTED_WINDOWS.fullmatch(type(module).__name__) and place.around is not None:
            _, rows, columns, _ = place.around
            down, right = cast("Sequence[int]", module.shift_size)
            padded = place.shape[0] * place.shape[2] != batch * rows * columns
            return ((int(down), int(right)) if rows == columns else None), padded
        path = path.rpartition(".")[0]
    return None, False


def _class_tokens(model: nn.Module) -> int:
    """1 where the first of the tokens before the patches is a class token, 0 where they are registers alone."""
    return int(any(name.rpartition(".")[2] in _CLASS_TOKEN for name, _ in model.named_parameters()))
