"""What can be read from a network that nobody changed: its stages, its head, and the images it expects.

Stages are found by structure; what the libraries timm, torchvision and transformers declare about their own networks
(layout, tokens, normalisation, classifier) is added here.

>>> from attention_transfer import build
>>> description = describe(build("resnet8", 10))
>>> [str(stage.output) for stage in description.stages], description.head
(['layer1', 'layer2', 'layer3'], 'fc')

Running it tells more: which layers can be named, and how values lie that its structure does not tell:

>>> import torch
>>> with_places(description, build("resnet8", 10), torch.empty(1, 3, 32, 32)).suggested[-1]
'layer3'
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from attention_transfer.capture import Images, Layout, Places, Tap
from attention_transfer.capture.output_layouts import find_places
from attention_transfer.models.introspection.description import Description, Input, Stage
from attention_transfer.models.introspection.layouts import suggested_layers, tap_seen
from attention_transfer.models.introspection.pooling import find_pooled
from attention_transfer.models.introspection.pre_activations import before_activation
from attention_transfer.models.introspection.stages import (
    FoundStages,
    find_stages,
    gives_several,
    has_attention,
    join,
    takes_tokens,
)
from attention_transfer.models.introspection.tokens import attention_grid, pair_of, patch_size, prefix_tokens
from attention_transfer.models.preprocessing import normalised

IMAGENET = Input(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_HEAD_NAMES = ("fc", "classifier", "head", "heads", "linear")
# Which of the values that a stage hands on is the one of the image: before it is merged for the next stage, of patches
# and not of pixels or the class token, of the branch with the most channels, of the residual and not the dense path.
_ITEMS = {"dpn": 0, "efficientvim": 0, "pit": 0, "selecsls": 0, "tnt": 1, "crossvit": 1}
_SEVERAL_VALUES = re.compile(r"transformers\.models\.(pvt|pvt_v2)\..*")


def describe(model: nn.Module) -> Description:
    """What can be read from a network, worked out from its modules; nothing is run and nothing is changed.

    A network whose structure is unknown has no stages here; its user names modules instead. One that has an attribute
    `declared_stages` (a tuple of `Stage`, input to output) is taken at its word.

    Args:
        model: any image classifier, also on the meta device.
    """
    stages, layout = _stages(model)
    network, head = type(_bare(model)), _head(model)
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
    """Its stages, and how their values lie in memory (None if it could not be determined; then there are no stages)."""
    declared = cast("tuple[Stage, ...]", getattr(model, "declared_stages", ()))
    if declared:
        return declared, declared[0].output.layout
    within, network = network_of(model)
    found = find_stages(network)
    if not found.paths or any(gives_several(network.get_submodule(path)) for path in found.paths):
        listed = _listed_stages(network)
        found = listed if listed.paths else found
    found = _of_several_resolutions(network, found)
    layout = _layout(network, found)
    if layout is None:
        return (), None
    stages: list[Stage] = []
    for index, path in enumerate(_not_overwritten(network, _in_rows(network, found.paths))):
        several = gives_several(network.get_submodule(path))
        item = _ITEMS.get(type(network).__module__.rpartition(".")[2]) if several is not False else None
        if several and item is None:
            return (), None
        output = Tap(join(within, path), "output", layout, item=item)
        if layout == "tokens":
            output = replace(
                output,
                prefix_tokens=prefix_tokens(network, index),
                grid=attention_grid(network),
                patch=patch_size(network, found.paths[0]),
            )
        stages.append(Stage(output, before_activation(model, output)))
    return tuple(stages), layout


def _in_rows(network: nn.Module, paths: Sequence[str]) -> Sequence[str]:
    """Those of some blocks whose tokens lie row by row.

    Networks that unroll an image (Hiera) reorder them, until their last stage has merged what was unrolled.
    """
    schedule = getattr(getattr(network, "reroll", None), "schedule", None)
    if not isinstance(schedule, Mapping):
        return paths
    left = cast("Mapping[int, tuple[Sequence[Any], Any]]", schedule)
    return [path for path in paths if not left[int(path.rpartition(".")[2])][0]]


def _is_norm(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    # Timm's networks without norms are called after what they have not.
    return "norm" in name and "normfree" not in name


def _library(module: nn.Module) -> str:
    """Where a network's class is from; of ours, the one that it extends."""
    packages = (kind.__module__.partition(".")[0] for kind in type(module).__mro__)
    return next(package for package in packages if package != __name__.partition(".")[0])


def network_of(model: nn.Module) -> tuple[str, nn.Module]:
    """The network itself and its path: that of a known library, where a wrapper of ours or of a user holds it."""
    for path, module in model.named_modules():
        if _is_network(module) and 2 * _size(module) > _size(model):
            return path, module
    return "", model


def _is_network(module: nn.Module) -> bool:
    """Whether a module is a whole network of a known library, not a part of one."""
    library, _, rest = type(module).__module__.partition(".")
    known = {"timm": ("pretrained_cfg",), "transformers": ("base_model_prefix",), "torchvision": _HEAD_NAMES}
    return rest.startswith("models") and any(hasattr(module, name) for name in known.get(library, ()))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _bare(model: nn.Module) -> nn.Module:
    """The network as its own library knows it, without a thin wrapper of ours."""
    inner = getattr(model, "wrapped", None)
    return inner if isinstance(inner, nn.Module) else model


def _listed_stages(model: nn.Module) -> FoundStages:
    """What timm lists for feature extraction, for networks that no rule knows."""
    modules = dict(model.named_modules())
    names = [info["module"] for info in _infos(model) if info["reduction"] >= 4 and info["module"] in modules]
    # Branches of one block are listed under its name.
    return FoundStages(tuple(dict.fromkeys(names)))


def _infos(model: nn.Module) -> Sequence[Mapping[str, Any]]:
    """What timm says of the features that can be taken from a network of its own; nothing of others."""
    listed = getattr(model, "feature_info", None)
    if _library(model) != "timm" or listed is None:
        return ()
    return cast("Sequence[Mapping[str, Any]]", getattr(listed, "info", listed))


def _not_overwritten(model: nn.Module, paths: Sequence[str]) -> Sequence[str]:
    """The same stages.

    Of a network of timm whose last one is overwritten by an activation (Xception in older versions), the value behind
    that.
    """
    if _library(model) != "timm" or not paths:
        return paths
    children = [name for name, _ in model.named_children()]
    last = children.index(paths[-1].partition(".")[0])
    following = model.get_submodule(children[last + 1]) if last + 1 < len(children) else None
    overwrites = type(following).__module__ == "torch.nn.modules.activation" and getattr(following, "inplace", False)
    return [*paths[:-1], children[last + 1]] if overwrites else paths


def _of_several_resolutions(model: nn.Module, found: FoundStages) -> FoundStages:
    """Of a chain of blocks of which timm lists those before each change of resolution (SAM 2), these alone."""
    infos = _infos(model)
    ends = [str(info["module"]) for info in infos]
    if not found.blocks or hasattr(model, "reroll") or len({info["reduction"] for info in infos}) < 2:
        return found
    return FoundStages(tuple(ends), blocks=True) if set(ends) <= set(found.paths) else found


def _layout(model: nn.Module, found: FoundStages) -> Layout | None:
    """How the stages' values lie in memory; None if it could not be determined."""
    if not found.paths:
        return None
    if _SEVERAL_VALUES.fullmatch(type(model).__module__):
        return None
    last = model.get_submodule(found.paths[-1])
    embed = getattr(model, "patch_embed", None)
    # Of what cuts patches, the format holds for the blocks too where nothing comes before their patches.
    formats = [getattr(each, "output_fmt", None) for each in (model, embed)]
    position = getattr(model, "pos_embed", None)
    convolutional = any(isinstance(module, nn.Conv2d) for module in last.modules())
    attention = has_attention(last)
    if not hasattr(model, "num_prefix_tokens") and any(str(getattr(f, "value", f)) == "NHWC" for f in formats):
        return "nhwc"
    if isinstance(position, Tensor) and position.ndim == 4:
        _, first, second, third = position.shape
        return "nchw" if second == third != first else "nhwc"
    if _library(model) == "torchvision" and hasattr(model, "permute"):
        return "nhwc"
    if found.blocks:
        # Where some blocks are of convolutions and some of attention, all hand on maps.
        mixed = convolutional and not all(has_attention(model.get_submodule(path)) for path in found.paths)
        return "nchw" if mixed else "tokens"
    if getattr(model, "use_conv", None) is False or takes_tokens(last):
        return "tokens"
    if _library(model) in ("timm", "transformers") and attention and not convolutional:
        return "tokens"
    # Hierarchies of attention lie every way; in an unknown package, a guess could be silently wrong.
    return None if attention and _library(model) not in ("timm", "torchvision", "transformers") else "nchw"


def _head(model: nn.Module) -> str | None:
    """Path of the only linear layer between pooled features and logits."""
    within, inner = network_of(model)
    if inner is not model and inner is not _bare(model) and _has_linear_beside(model, inner):
        # What a user has put behind a network of a library makes the logits.
        within, inner = "", model
    declared = (getattr(inner, "pretrained_cfg", None) or {}).get("classifier") if _library(inner) == "timm" else None
    if isinstance(declared, Sequence) and not isinstance(declared, str):
        # Logits averaged from two heads come from no single layer.
        return None
    names = (declared,) if isinstance(declared, str) else _HEAD_NAMES
    modules = dict(inner.named_modules())
    for name in names:
        named = [path for path in modules if re.match(rf"{re.escape(name)}(\.|$)", path)]
        linear = [path for path in named if isinstance(modules[path], nn.Linear)]
        others = any(isinstance(modules[path], nn.Conv2d) for path in named)
        if linear and not others:
            return join(within, linear[-1])
    return None


def _has_linear_beside(model: nn.Module, inner: nn.Module) -> bool:
    inside = set(inner.modules())
    return any(isinstance(module, nn.Linear) and module not in inside for module in model.modules())


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
    within, inner = network_of(model)
    if head is None or hasattr(inner, "reroll"):
        return None
    wrapper = f"{within}." if within else ""
    if not head.startswith(wrapper):
        wrapper, inner = "", model
    last = stages[-1].output if stages else Tap("", prefix_tokens=prefix_tokens(inner, 0))
    ends = [stage.output.module.removeprefix(wrapper) for stage in stages]
    pooled = find_pooled(inner, head.removeprefix(wrapper), ends, replace(last, item=None))
    if pooled is None:
        return None
    pooled = replace(pooled, module=wrapper + pooled.module)
    return replace(pooled, item=last.item) if (pooled.module, pooled.site) == (last.module, "output") else pooled


def _input(model: nn.Module) -> Input | None:
    """The images that a network of these libraries is made for."""
    inner = _bare(model)
    if inner is not model:
        declared = getattr(model, "input", None)
        side = pair_of(getattr(getattr(inner, "config", None), "image_size", None))
        known = declared if isinstance(declared, Input) else None
        return replace(known, size=known.size or side) if known else None
    if _library(model) == "torchvision":
        return Input(IMAGENET.mean, IMAGENET.std, _fixed_size(model))
    config = cast("Mapping[str, Any]", getattr(model, "pretrained_cfg", None) or {})
    if _library(model) != "timm" or "mean" not in config or "std" not in config:
        return None
    return normalised(config["mean"], config["std"], _fixed_size(model))


def _fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width where the network takes no other."""
    embed = getattr(model, "patch_embed", None)
    if embed is not None and getattr(embed, "strict_img_size", False):
        return pair_of(getattr(embed, "img_size", None))
    if _library(model) == "torchvision" and hasattr(model, "encoder"):
        return pair_of(getattr(model, "image_size", None))
    config = cast("Mapping[str, Any]", getattr(model, "pretrained_cfg", None) or {})
    if config.get("fixed_input_size") and embed is None:
        return pair_of(tuple(config["input_size"][1:]))
    return None


def _convolutional(model: nn.Module, layout: Layout | None) -> bool:
    """Whether its stages are made of convolutions; where they are unknown, whether most of its weights are."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if layout is None:
        return 2 * sum(c.weight.numel() for c in convolutions) > sum(p.numel() for p in model.parameters())
    # Patches are cut by a convolution too, but of images.
    return layout == "nchw" and any(max(c.kernel_size) > 1 and c.in_channels != 3 for c in convolutions)


def with_places(description: Description, model: nn.Module, image: Images) -> Description:
    """A network's description with the layout of its values as they were seen.

    Stages whose tokens lie in an order of their own are left out: no map can be made of them.

    Args:
        description: of the network.
        model: left as it was.
        image: of the shape, type and device of training, as this network receives it; its values are not looked at.
    """
    places = find_places(model, image)
    if places is None:
        return description
    stages = [_seen_stage(stage, places) for stage in description.stages]
    known = tuple(stage for stage in stages if stage is not None)
    return replace(description, stages=known, places=places, suggested=suggested_layers(places))


def _seen_stage(stage: Stage, places: Places) -> Stage | None:
    output = tap_seen(places, stage.output)
    if output is None:
        return None
    before = stage.pre_activation
    if before is not None:
        lies = {name: getattr(output, name) for name in ("layout", "prefix_tokens", "grid", "patch")}
        before = replace(before, **lies)
    return Stage(output, before)
