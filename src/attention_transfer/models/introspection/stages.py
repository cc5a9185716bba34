"""Finding the stages of a network that nobody described, from the way networks are written.

Every rule looks at names and kinds of children only; nothing is run. The outermost module where a rule applies decides,
so that the blocks inside a stage are never taken for stages.

>>> from attention_transfer import build
>>> find_stages(build("vgg8", 10)).paths[-1].split(".")[0]
'block4'
"""

import re
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from itertools import pairwise
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

_DEPTH = 3
_STAGE_LISTS = ("stages", "layers", "blocks", "layer", "transformers", "levels")
_BLOCK_LISTS = ("blocks", "layers", "layer")
_INSIDE = ("blocks", "layers", "transformer_encoder")
_NUMBERED = re.compile(r"(layer|stage|block|denseblock|serial_blocks|level|s)(\d+)")
_LETTERED = re.compile(r"(inception|Mixed_)(\d)([a-z])")
_NOT_STAGES = re.compile(r"stem|embed|head|classif|pool|aux|norm|decoder|patch|teacher")
_SIZES = {"size", "feat_size", "input_dimensions"}
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
# Where a chain changes shape more often (channels that grow with every block), only the resolution makes stages.
_MOST_SHAPES = 8


class FoundStages(NamedTuple):
    """Where the stages of a network end; no paths if they could not be determined.

    Args:
        paths: dotted paths of the modules that end each stage, from input to output.
        blocks: whether each is a single block of a plain chain, as in a vision transformer.
    """

    paths: tuple[str, ...]
    blocks: bool = False


def find_stages(model: nn.Module) -> FoundStages:
    """The top-level stages of a network; none where its structure is unknown."""
    for path, module in _outermost_first(model):
        for rule in _RULES:
            found = rule(module)
            if found is not None:
                return FoundStages(tuple(join(path, name) for name in found.paths), found.blocks)
    return FoundStages(())


def members(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a module, one that serves at several places at each of them."""
    return [item for item in module.named_modules(remove_duplicate=False) if item[0] and "." not in item[0]]


def join(*names: str) -> str:
    """A dotted path; empty names are left out."""
    return ".".join(name for name in names if name)


def has_attention(module: nn.Module) -> bool:
    """Whether a module mixes positions by attention."""
    return any(
        isinstance(child, nn.MultiheadAttention) or re.search("attn|attention", name.rpartition(".")[2])
        for name, child in module.named_modules()
        # Squeeze-and-excitation is called channel attention here and there; it has no linear projections of tokens.
        if any(isinstance(leaf, nn.Linear) for leaf in child.modules())
    )


def _outermost_first(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that may hold stages, breadth first; not those that are scripted, in which nothing can be read."""
    level = [] if isinstance(model, torch.jit.ScriptModule) else [("", model)]
    for _ in range(_DEPTH + 1):
        yield from level
        level = [
            (join(path, name), child)
            for path, module in level
            for name, child in module.named_children()
            if not _NOT_STAGES.search(name) and next(child.children(), None) is not None
            if not isinstance(child, torch.jit.ScriptModule)
        ]


def _numbered(module: nn.Module) -> FoundStages | None:
    """`layer1`, `layer2`, … and the like, in the order of their numbers."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name, child in module.named_children():
        match = _NUMBERED.fullmatch(name)
        if match and not _is_leaf(child):
            groups.setdefault(match[1], []).append((int(match[2]), name))
    numbered = sorted(max(groups.values(), key=len, default=[]))
    if len(numbered) < 2:
        return None
    children = [(name, module.get_submodule(name)) for _, name in numbered]
    # A stem may be numbered too.
    deep = [item for item in children if not _is_plain(item[1])]
    children = deep if len(deep) > 1 else children
    if all(type(child) is nn.ModuleList for _, child in children):
        return FoundStages(_last_members(children))
    single = children[0][0].startswith("block") and not any(_holds_blocks(child) for _, child in children)
    return FoundStages(tuple(_last_of_each_shape(children) if single else (name for name, _ in children)))


def _lettered(module: nn.Module) -> FoundStages | None:
    """`inception3a`, `inception3b`, `inception4a`, …: the last letter of each number ends a stage."""
    names = [name for name, _ in module.named_children() if _LETTERED.fullmatch(name)]
    last = {name[:-1]: name for name in names}
    return FoundStages(tuple(last.values())) if last else None


def _stage_list(module: nn.Module) -> FoundStages | None:
    """A list called `stages`, `blocks`, … whose members are themselves lists of blocks."""
    for name in _STAGE_LISTS:
        children = _members(module, name)
        # What is called stages may have a convolution before its blocks, and a norm after them.
        holds = _holds_a_block if name == "stages" else _holds_blocks
        if len(children) > 1 and all(holds(child) for _, child in children):
            return FoundStages(tuple(join(name, end) for end in _last_members(children)))
    return None


def _last_members(children: Sequence[tuple[str, nn.Module]]) -> tuple[str, ...]:
    """Stages, and the last members of those that are lists, whose owner walks them: they never run themselves."""
    return tuple(
        join(name, members(child)[-1][0]) if type(child) is nn.ModuleList else name for name, child in children
    )


def _block_list(module: nn.Module) -> FoundStages | None:
    """A chain of single blocks: each a stage where nothing changes shape, else a stage per shape."""
    for name in _BLOCK_LISTS:
        children = _members(module, name)
        if len(children) < 2 or any(_is_leaf(child) for _, child in children):
            continue
        convolutions = [_convolutions(child) for _, child in children]
        if all(convolutions) and not any(has_attention(child) for _, child in children):
            ends = _last_of_each_shape(children)
            if len(ends) > 1:
                return FoundStages(tuple(join(name, end) for end in ends))
        return FoundStages(tuple(join(name, child_name) for child_name, _ in children), blocks=True)
    return None


def _chain(module: nn.Module) -> FoundStages | None:
    """One long sequence called `features` or `layers`, with stem, blocks, poolings and head convolution in it."""
    for name in ("features", "layers"):
        children = _members(module, name)
        if not children or _numbered(module.get_submodule(name)):
            continue
        stages = [child_name for child_name, child in children if type(child) is nn.Sequential and _holds_blocks(child)]
        if len(stages) < 2:
            stages = _before_each_pool(children)
        if len(stages) < 2:
            stages = _last_of_each_shape([
                item for item in children if not _is_leaf(item[1]) and not _is_plain(item[1])
            ])
        if len(stages) > 1:
            return FoundStages(tuple(join(name, stage) for stage in stages))
    return None


def _branches(module: nn.Module) -> FoundStages | None:
    """What is made of each branch of a network of several resolutions, whose stages all hand on every branch."""
    children = _members(module, "incre_modules")
    return FoundStages(tuple(join("incre_modules", name) for name, _ in children)) if children else None


_RULES: Sequence[Callable[[nn.Module], FoundStages | None]] = (
    _branches,
    _numbered,
    _lettered,
    _stage_list,
    _chain,
    _block_list,
)


def _before_each_pool(children: Sequence[tuple[str, nn.Module]]) -> list[str]:
    """The last module before each pooling (and of the rest, if it has blocks), without a stem that only downsamples."""
    runs: list[list[tuple[str, nn.Module]]] = [[]]
    for item in children:
        if isinstance(item[1], _POOLS):
            runs.append([])
        else:
            runs[-1].append(item)
    if len(runs) < 3:
        return []
    stem = [child for _, child in runs[0] if isinstance(child, nn.Conv2d)]
    if len(stem) == 1 and max(stem[0].stride) > 1:
        runs = runs[1:]
    return [run[-1][0] for run in runs if run]


def _last_of_each_shape(children: Sequence[tuple[str, nn.Module]]) -> list[str]:
    """Last blocks before the number of channels or the resolution changes."""
    if not children:
        return []
    ends = [name for (name, _), (_, following) in pairwise(children) if _changes_shape(following)]
    if len(ends) >= _MOST_SHAPES:
        ends = [name for (name, _), (_, following) in pairwise(children) if _changes_resolution(following)]
    return [*ends, children[-1][0]]


def _changes_shape(block: nn.Module) -> bool:
    convolutions = _convolutions(block)
    widths_differ = bool(convolutions) and convolutions[0].in_channels != convolutions[-1].out_channels
    return widths_differ or _changes_resolution(block)


def _changes_resolution(block: nn.Module) -> bool:
    return any(max(convolution.stride) > 1 for convolution in _convolutions(block))


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [child for child in module.modules() if isinstance(child, nn.Conv2d)]


def _members(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    child = dict(module.named_children()).get(name)
    return members(child) if isinstance(child, nn.Sequential | nn.ModuleList) else []


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a module is a list of blocks, or has one."""
    if isinstance(module, nn.Sequential | nn.ModuleList):
        children = list(module.children())
        return bool(children) and not any(_is_leaf(child) for child in children)
    return any(isinstance(getattr(module, name, None), nn.Sequential | nn.ModuleList) for name in _INSIDE)


def _holds_a_block(module: nn.Module) -> bool:
    members = isinstance(module, nn.Sequential) and not all(_is_leaf(child) for child in module.children())
    return members or _holds_blocks(module)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a sequence of single operations: a convolution with its norm and activation."""
    return isinstance(module, nn.Sequential) and all(_is_leaf(child) for child in module.children())


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def gives_several(module: nn.Module) -> bool | None:
    """Whether a module gives several tensors, by the annotation of its forward; None where that says nothing."""
    while type(module).forward is nn.Sequential.forward and len(list(module.children())):
        module = list(module.children())[-1]
    try:
        given: Any = get_type_hints(type(module).forward).get("return")
    except (NameError, TypeError):
        # It may name what cannot be resolved.
        return None
    return None if given is None else _tensors(given) > 1


def _tensors(kind: Any) -> int:
    """How many tensors a type holds, at least."""
    if kind is Tensor:
        return 1
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return max(map(_tensors, parts), default=0)
    # The length of a list is unknown.
    return 2 * _tensors(parts[0]) if get_origin(kind) is list else sum(map(_tensors, parts))


def takes_tokens(module: nn.Module) -> bool:
    """Whether a module must be told how many rows and columns its values have, for they are tokens."""
    return any(name in _SIZES for name in signature(type(module).forward).parameters)
