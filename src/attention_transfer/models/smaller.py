"""Small forms of large vision transformers, for trying out whether an experiment runs."""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from attention_transfer.errors import needing
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
