"""What can be read from a network that nobody changed: its stages, its head, and the images it expects.

Stages are found by structure; what the libraries timm, torchvision and transformers declare about their own networks
(layout, tokens, normalisation, classifier) is added here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from attention_transfer.capture import Layout, Tap
from attention_transfer.models.activations import before_activation
from attention_transfer.models.description import Description, Input, Stage
from attention_transfer.models.pooling import find_pooled
from attention_transfer.models.structure import FoundStages, find_stages, has_attention

IMAGENET = Input(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_HEAD_NAMES = ("fc", "classifier", "head", "heads", "linear")
_PREFIX_TOKENS = ("cls_token", "class_token", "class_embedding", "distillation_token", "dist_token", "register_tokens")
# They hold class tokens that join only after the blocks: in attention over classes, or in a last layer.
_LATE_CLASS_TOKEN = ("blocks_token_only", "cls_attn_blocks")
# Their stages hand on several values at once.
_SEVERAL_VALUES = re.compile(
    r"timm\.models\.(coat|efficientvim|hrnet|mvitv2|selecsls|tnt)|transformers\.models\.(pvt|pvt_v2)\..*"
)
# Their tokens lie in an order of their own; a grid made of them would be scrambled.
_SCRAMBLED = ("unroll", "reroll")


def describe(model: nn.Module) -> Description:
    """What can be read from a network, worked out from its modules; nothing is run and nothing is changed.

    A network whose structure is unknown has no stages here; its user names modules instead. One that has an attribute
    `declared_stages` (a tuple of `Stage`, input to output) is taken at its word.

    Args:
        model: any image classifier, also on the meta device.
    """
    stages, layout = _stages(model)
    network, head = type(_wrapped(model)), _head(model)
    return Description(
        stages=stages,
        head=head,
        token_heads=_token_heads(model),
        input=_input(model),
        convolutional=_convolutional(model, layout),
        normalised=any(_is_norm(module) for module in model.modules()),
        pooled=_pooled(model, head, stages),
        architecture=f"{network.__module__}.{network.__qualname__}",
    )


def _stages(model: nn.Module) -> tuple[tuple[Stage, ...], Layout | None]:
    """Its stages, and how their values lie in memory (None where nobody can tell; then there are no stages)."""
    declared = cast("tuple[Stage, ...]", getattr(model, "declared_stages", ()))
    if declared:
        return declared, declared[0].output.layout
    found = find_stages(model)
    if not found.paths:
        found = _listed_stages(model)
    layout = _layout(model, found)
    stages: list[Stage] = []
    if layout is not None:
        grid = attention_grid(model) if layout == "tokens" else None
        for index, path in enumerate(found.paths):
            prefix = prefix_tokens(model, index) if layout == "tokens" else 0
            output = Tap(path, "output", layout, prefix, grid)
            stages.append(Stage(output, before_activation(model, output)))
    return tuple(stages), layout


def _is_norm(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    # Timm's networks without norms are called after what they have not.
    return "norm" in name and "normfree" not in name


def _library(module: nn.Module) -> str:
    """Where a network's class is from; of ours, the one that it extends."""
    packages = (kind.__module__.partition(".")[0] for kind in type(module).__mro__)
    return next(package for package in packages if package != __name__.partition(".")[0])


def _wrapped(model: nn.Module) -> nn.Module:
    """The network itself, where a thin wrapper of ours holds it."""
    inner = getattr(model, "wrapped", None)
    return inner if isinstance(inner, nn.Module) else model


def _listed_stages(model: nn.Module) -> FoundStages:
    """What timm lists for feature extraction, for networks of convolutions that no rule knows."""
    listed = getattr(model, "feature_info", None)
    if _library(model) != "timm" or listed is None or has_attention(model):
        return FoundStages(())
    infos = cast("Sequence[Mapping[str, Any]]", getattr(listed, "info", listed))
    modules = dict(model.named_modules())
    return FoundStages(tuple(i["module"] for i in infos if i["reduction"] >= 4 and i["module"] in modules))


def _layout(model: nn.Module, found: FoundStages) -> Layout | None:
    """How the stages' values lie in memory; None where nobody can tell."""
    model = _wrapped(model)
    if not found.paths or any(hasattr(model, name) for name in _SCRAMBLED):
        return None
    if _SEVERAL_VALUES.fullmatch(type(model).__module__):
        return None
    paths = [path.removeprefix("wrapped.") for path in found.paths]
    last = model.get_submodule(paths[-1])
    format_name = str(getattr(getattr(model, "output_fmt", None), "value", getattr(model, "output_fmt", None)))
    position = getattr(model, "pos_embed", None)
    convolutional = any(isinstance(module, nn.Conv2d) for module in last.modules())
    attention = has_attention(last)
    if format_name == "NHWC" and not hasattr(model, "num_prefix_tokens"):
        return "nhwc"
    if isinstance(position, Tensor) and position.ndim == 4:
        return "nhwc"
    if _library(model) == "torchvision" and hasattr(model, "permute"):
        return "nhwc"
    if found.blocks:
        # Where some blocks are of convolutions and some of attention, all hand on maps.
        mixed = convolutional and not all(has_attention(model.get_submodule(path)) for path in paths)
        return "nchw" if mixed else "tokens"
    if getattr(model, "use_conv", None) is False:
        return "tokens"
    if _library(model) == "transformers" and attention and not convolutional:
        return "tokens"
    # Hierarchies of attention lie every way; in a package nobody knows, a guess could be silently wrong.
    return None if attention and _library(model) not in ("timm", "torchvision", "transformers") else "nchw"


def prefix_tokens(model: nn.Module, stage: int) -> int:
    """Tokens before those of the patches at one stage."""
    model = _wrapped(model)
    if any(hasattr(model, name) for name in _LATE_CLASS_TOKEN) or stage < getattr(model, "local_up_to_layer", 0):
        return 0
    declared = getattr(model, "num_prefix_tokens", None)
    if isinstance(declared, int):
        return declared
    counts = 0
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in _PREFIX_TOKENS:
            counts += parameter.shape[-2] if parameter.ndim > 1 else 1
    return counts


def attention_grid(model: nn.Module) -> tuple[int, int] | None:
    """Rows and columns of the patches; None where they depend on the image (then they are square)."""
    model = _wrapped(model)
    embed = getattr(model, "patch_embed", None)
    if embed is not None:
        grid = None if getattr(embed, "dynamic_img_pad", False) else getattr(embed, "grid_size", None)
        fixed = bool(getattr(embed, "strict_img_size", True))
    else:
        source = getattr(model, "config", model)
        image, patch = (_pair(getattr(source, name, None)) for name in ("image_size", "patch_size"))
        grid = (image[0] // patch[0], image[1] // patch[1]) if image and patch else None
        fixed = True
    pair = _pair(grid)
    # A square grid needs no saying, and stays right where the image's size may change.
    return pair if pair is not None and fixed and pair[0] != pair[1] else None


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence):
        items = list(cast("Sequence[Any]", value))
        if len(items) == 2 and all(isinstance(item, int) for item in items):
            return items[0], items[1]
    return None


def _head(model: nn.Module) -> str | None:
    """Path of the only linear layer between pooled features and logits."""
    inner = _wrapped(model)
    declared = (getattr(inner, "pretrained_cfg", None) or {}).get("classifier") if _library(inner) == "timm" else None
    if isinstance(declared, Sequence) and not isinstance(declared, str):
        # Logits averaged from two heads come from no single layer.
        return None
    names = (declared,) if isinstance(declared, str) else _HEAD_NAMES
    modules = dict(inner.named_modules())
    for name in names:
        within = [path for path in modules if re.match(rf"{re.escape(name)}(\.|$)", path)]
        linear = [path for path in within if isinstance(modules[path], nn.Linear)]
        others = any(isinstance(modules[path], nn.Conv2d) for path in within)
        if linear and not others:
            return linear[-1] if inner is model else f"wrapped.{linear[-1]}"
    return None


def _token_heads(model: nn.Module) -> tuple[str, str] | None:
    """Paths of the two heads of timm's distilled networks, which it names class token first."""
    declared = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") if _library(model) == "timm" else None
    if not isinstance(declared, Sequence) or isinstance(declared, str) or len(declared) != 2:
        return None
    modules = dict(model.named_modules())
    first, second = declared
    # Others have two heads for other reasons: two branches, or labels of patches.
    return (first, second) if "dist" in second and first in modules and second in modules else None


def _pooled(model: nn.Module, head: str | None, stages: tuple[Stage, ...]) -> Tap | None:
    """What the pooling before the head takes, in the layout that it has there."""
    inner = _wrapped(model)
    if head is None or any(hasattr(inner, name) for name in _SCRAMBLED):
        return None
    wrapper = "" if inner is model else "wrapped."
    usual = stages[-1].output if stages else Tap("", prefix_tokens=prefix_tokens(model, 0))
    ends = [stage.output.module.removeprefix(wrapper) for stage in stages]
    pooled = find_pooled(inner, head.removeprefix(wrapper), ends, usual)
    return replace(pooled, module=wrapper + pooled.module) if pooled is not None else None


def _input(model: nn.Module) -> Input | None:
    """The images that a network of these libraries is made for."""
    inner = _wrapped(model)
    if inner is not model:
        declared = getattr(model, "input", None)
        side = _pair(getattr(getattr(inner, "config", None), "image_size", None))
        known = declared if isinstance(declared, Input) else None
        return replace(known, size=known.size or side) if known else None
    if _library(model) == "torchvision":
        return Input(IMAGENET.mean, IMAGENET.std, _fixed_size(model))
    config = cast("Mapping[str, Any]", getattr(model, "pretrained_cfg", None) or {})
    if _library(model) != "timm" or "mean" not in config or "std" not in config:
        return None
    return Input(_triple(config["mean"]), _triple(config["std"]), _fixed_size(model))


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    # Networks for grey images list one value.
    first, *others = values
    return (first, others[0], others[1]) if len(others) > 1 else (first, first, first)


def _fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width where the network takes no other."""
    embed = getattr(model, "patch_embed", None)
    if embed is not None and getattr(embed, "strict_img_size", False):
        return _pair(getattr(embed, "img_size", None))
    if _library(model) == "torchvision" and hasattr(model, "encoder"):
        return _pair(getattr(model, "image_size", None))
    config = cast("Mapping[str, Any]", getattr(model, "pretrained_cfg", None) or {})
    if config.get("fixed_input_size") and embed is None:
        return _pair(tuple(config["input_size"][1:]))
    return None


def _convolutional(model: nn.Module, layout: Layout | None) -> bool:
    """Whether its stages are made of convolutions; where they are unknown, whether most of its weights are."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if layout is None:
        return 2 * sum(c.weight.numel() for c in convolutions) > sum(p.numel() for p in model.parameters())
    # Patches are cut by a convolution too, but of images.
    return layout == "nchw" and any(max(c.kernel_size) > 1 and c.in_channels != 3 for c in convolutions)
