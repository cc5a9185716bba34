"""A distillation token for vision transformers that have none: timm's distilled DeiT where that is the same network."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from attention_transfer.errors import InputError, needing
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.naming import Name, parse_name, written
from attention_transfer.models.timm_source import without_source

ARGUMENT = "distillation_token"
# timm builds its distilled DeiT in any size and shape; this is the one whose own settings do not matter here.
_DISTILLED = "deit_base_distilled_patch16_224"


def asks_for_token(name: Name) -> bool:
    """Whether a name has the argument `distillation_token=True`."""
    return name.arguments.get(ARGUMENT) is True


def without_argument(name: Name) -> Name:
    """The same network, without the token."""
    said = {key: value for key, value in name.arguments.items() if key != ARGUMENT}
    return Name(name.library, name.inner, said)


def plain_name(name: Name, image_size: object = None) -> Name:
    """The name of a network of timm as timm itself understands it.

    `vit_tiny_patch16_224(distillation_token=True)` means a ViT-Ti with a second token and a second head, which timm
    builds under the name of its distilled DeiT. There both tokens have places that are learned, also if the network
    gave its class token none. What has no such argument stays as it is, and so does what timm cannot build: networks
    with register tokens or other norms, blocks or stems than the DeiT's, see `DistilledVisionTransformer`.

    Args:
        name: of the library timm.
        image_size: None where it is not said beside the name, so that the name must say one that timm does not expect.

    Raises:
        ValueError: for a value that is not True or False, and for networks without a class token or of another kind.
    """
    if ARGUMENT not in name.arguments:
        return name
    wanted = name.arguments[ARGUMENT]
    if not isinstance(wanted, bool):
        raise InputError(f"{ARGUMENT} of timm:{name.inner} is True or False, not {wanted!r}")
    plain = without_argument(name)
    if not wanted:
        return plain
    network = _outline(plain)
    _refuse_unfit(network, name.inner)
    found = _architecture(network)
    if image_size is not None:
        found.pop("img_size", None)
    said = {key: value for key, value in plain.arguments.items() if key != "no_embed_class"}
    distilled = Name(name.library, _DISTILLED, found | said)
    return distilled if _nothing_else_is_new(network, distilled) else name


def written_plainly(name: str, image_size: object = None) -> str:
    """The same for a name as it is written, so that what is saved under it can be opened by timm alone.

    Also without the folder or the hub that described it.

    Args:
        name: of any library, without weights.
        image_size: as for `plain_name`.

    Raises:
        ValueError: as `plain_name` does.
    """
    if not name.startswith("timm:"):
        return name
    parsed = parse_name(name)
    listed = without_source(parsed)
    if listed is parsed and ARGUMENT not in parsed.arguments:
        return name
    plain = plain_name(listed, image_size)
    return f"timm:{plain.inner}" + (f"({written(plain.arguments).removeprefix(', ')})" if plain.arguments else "")


def with_token(weights: Mapping[str, Tensor], *, of: Name) -> dict[str, Tensor]:
    """Weights of a vision transformer with a distillation token that starts as a copy of the class token.

    Its place and its head are copies too, where there are any, so that both tokens begin with what the network has
    learned. Where only patches have places (DeiT III), those of both tokens start at zero: as good as none.
    Weights that have such a token, or no class token, stay as they are, and so does everything for a network that does
    not ask for one.

    Args:
        weights: of timm's vision transformer.
        of: the network's name.
    """
    added = dict(weights)
    if not asks_for_token(of) or "dist_token" in weights or "cls_token" not in weights:
        return added
    added["dist_token"] = weights["cls_token"].clone()
    if "pos_embed" in weights:
        places = weights["pos_embed"]
        placed = not _only_patches_have_places(of)
        if not asks_for_token(plain_name(of)):
            first = places[:, :1] if placed else torch.zeros_like(places[:, :2])
            added["pos_embed"] = torch.cat([first, places], 1)
        elif placed:
            added["dist_token"] += places[:, :1]
    for kind in ("weight", "bias"):
        if f"head.{kind}" in weights:
            added[f"head_dist.{kind}"] = weights[f"head.{kind}"].clone()
    return added


def _only_patches_have_places(name: Name) -> bool:
    return bool(cast(Any, _outline(without_argument(name))).no_embed_class)


def _outline(name: Name) -> nn.Module:
    """A network without memory and values."""
    with needing(f"timm:{name.inner}", "timm"):
        import timm

    options: dict[str, Any] = {**name.arguments, "num_classes": 1}
    try:
        return outline(lambda: timm.create_model(name.inner, **options))
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        raise InputError(f"timm:{name.inner} with {ARGUMENT} cannot be built: {error}") from error


def _refuse_unfit(network: nn.Module, inner: str) -> None:
    kind = type(network).__name__
    known = cast(Any, network)
    if kind == "VisionTransformerDistilled":
        raise InputError(f"timm:{inner} has a distillation token already: leave {ARGUMENT} out")
    if kind != "VisionTransformer":
        raise InputError(f"only plain vision transformers can have a {ARGUMENT}, and timm:{inner} is a {kind}")
    if not known.has_class_token or known.global_pool != "token":
        raise InputError(
            f"timm:{inner} does not classify by a class token (pooling: {known.global_pool or 'none'}), beside which a "
            "distillation token could stand: take a network that does, such as timm:vit_tiny_patch16_224"
        )
    if known.dynamic_img_size or not isinstance(known.patch_drop, nn.Identity):
        raise InputError(
            f"timm:{inner} with a {ARGUMENT} takes images of one size, and all patches: leave out dynamic_img_size and "
            "patch_drop_rate"
        )
    if known.pos_embed is None and not _has_its_prefix_tokens(network):
        raise InputError(
            f"this version of timm leaves the class token of timm:{inner} out, as it does of all networks without "
            "position embedding: leave out pos_embed, or take a newer timm"
        )


def _has_its_prefix_tokens(outline: nn.Module) -> bool:
    """Whether what a network says of its tokens before the patches is so."""
    known = cast(Any, outline.to("meta"))
    with torch.no_grad():
        image = torch.empty(1, 3, *known.patch_embed.img_size, device="meta")
        tokens = known.forward_features(image).shape[1]
    return tokens == known.patch_embed.num_patches + known.num_prefix_tokens


def _architecture(network: nn.Module) -> dict[str, Any]:
    """What must be said so that timm builds the same blocks over the same patches."""
    known = cast(Any, network)
    block, embed = known.blocks[0], known.patch_embed
    try:
        found: dict[str, Any] = {
            "patch_size": _plain(embed.patch_size),
            "embed_dim": known.embed_dim,
            "depth": len(known.blocks),
            "num_heads": block.attn.num_heads,
            "mlp_ratio": block.mlp.fc1.out_features / known.embed_dim,
        }
        scaled = not isinstance(block.ls1, nn.Identity)
    except AttributeError:
        # Blocks of another kind: the comparison of both networks will show it.
        return {}
    others = {
        "img_size": _plain(embed.img_size),
        "qkv_bias": block.attn.qkv.bias is not None,
        "qk_norm": not isinstance(block.attn.q_norm, nn.Identity),
        "init_values": getattr(block.ls1, "init_values", 1e-5) if scaled else None,
        "pre_norm": not isinstance(known.norm_pre, nn.Identity),
    }
    # Who builds it for images of another size says so beside the name.
    usual = {"img_size": 224, "qkv_bias": True, "qk_norm": False, "init_values": None, "pre_norm": False}
    return found | {key: value for key, value in others.items() if value != usual[key]}


def _plain(pair: Any) -> Any:
    height, width = pair
    return height if height == width else (height, width)


def _nothing_else_is_new(network: nn.Module, distilled: Name) -> bool:
    """Whether timm's distilled network under that name has but a token, its place and a head more."""
    known = cast(Any, network)
    if known.num_prefix_tokens != 1 or known.pos_embed is None:
        return False
    try:
        theirs = dict(_outline(distilled).named_children())
    except InputError:
        return False
    return all(name in theirs and repr(child) == repr(theirs[name]) for name, child in network.named_children())
