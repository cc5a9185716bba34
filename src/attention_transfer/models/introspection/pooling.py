"""What the global average pooling before the head takes, found from the way networks are written; nothing is run.

Where the pooling is a module, its input is what is pooled. Where it is a function, the last module before the head
gives it. Neither is certain: modules need not run in the order in which they are listed, and functions show nowhere.
`prove_class_maps` settles it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import nn

from attention_transfer.capture import Layout, Tap
from attention_transfer.models.introspection.stages import has_attention, join

_SILENT = re.compile("Identity|Drop|StochasticDepth|Flatten")
# timm's norm between the mean over tokens and the head.
_AFTER_POOLING = "fc_norm"
_LAYOUT_BY_POSITIONS: dict[tuple[int, ...], Layout] = {(2, 3): "nchw", (1, 2): "nhwc", (1,): "tokens"}


def find_pooled(model: nn.Module, head: str, stages: Sequence[str], usual: Tap) -> Tap | None:
    """The value whose mean over all positions the head takes; None if unknown.

    Args:
        model: the network itself, without a wrapper.
        head: path of its linear layer.
        stages: paths of the modules that end its stages; may be empty.
        usual: layout, prefix tokens and grid of the values at the ends of its stages; its module does not count.
    """
    first: str | None = None
    for path, module in _before(model, head, stages):
        name = path.rpartition(".")[2]
        if _is_silent(module) or name == _AFTER_POOLING or isinstance(module, nn.AdaptiveAvgPool1d):
            # What is pooled over one dimension has channels before positions; it is read before it is turned round.
            continue
        layout = average_over(module)
        if layout is not None and (first is None or not isinstance(module, nn.AvgPool2d)):
            return Tap(path, "input", layout, usual.prefix_tokens if layout == "tokens" else 0)
        if first is None and "pool" in name:
            # Somebody's own; the proof tells whether it is an average.
            return replace(usual, module=path, site="input")
        first = first or path
        if _is_body(path, module, stages):
            break
    return _pooled_by_function(model, head, first, usual) if first is not None else None


def average_over(module: nn.Module) -> Layout | None:
    """The layout of what a module averages over all positions; None if that is not what it does."""
    chosen = getattr(module, "pool", None)
    if isinstance(chosen, nn.Module) and hasattr(module, "pool_type"):
        return average_over(chosen)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return "nchw" if module.output_size in (1, (1, 1)) else None
    if isinstance(module, nn.AvgPool2d):
        return "nchw"
    if type(module).__name__ == "FastAdaptiveAvgPool":
        return _LAYOUT_BY_POSITIONS.get(tuple(getattr(module, "dim", ())))
    return None


def between(model: nn.Module, tap: Tap, head: str) -> list[str]:
    """What computes between a tap and the head, in the order in which it is listed; poolings that average left out."""
    leaves = [path for path, module in model.named_modules() if next(module.children(), None) is None or path == head]
    inside = [place for place, path in enumerate(leaves) if f"{path}.".startswith(f"{tap.module}.")]
    after = inside[-1] + 1 if tap.site == "output" else inside[0]
    found = [(path, model.get_submodule(path)) for path in leaves[after : leaves.index(head)]]
    return [
        f"{path} ({type(module).__name__})"
        for path, module in found
        if not _is_silent(module) and average_over(module) is None
    ]


def _before(model: nn.Module, head: str, stages: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Modules listed before the head: beside it, then beside what holds it, and so on; latest first."""
    while head:
        parent, _, name = head.rpartition(".")
        children = list(model.get_submodule(parent).named_children())
        place = [child for child, _ in children].index(name)
        for child, module in reversed(children[:place]):
            yield from _from_its_end(join(parent, child), module, stages)
        head = parent


def _from_its_end(path: str, module: nn.Module, stages: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """A module, or the members of one that only holds others."""
    in_turn = isinstance(module, nn.ModuleList) or type(module).forward is nn.Sequential.forward
    # The backbones of transformers give no tensor.
    backbone = hasattr(module, "base_model_prefix") or any(stage.startswith(f"{path}.") for stage in stages)
    if path in stages or not (in_turn or backbone):
        yield path, module
        return
    for name, child in reversed(list(module.named_children())):
        yield from _from_its_end(join(path, name), child, stages)


def _is_silent(module: nn.Module) -> bool:
    return bool(_SILENT.search(type(module).__name__))


def _is_body(path: str, module: nn.Module, stages: Sequence[str]) -> bool:
    """Whether a module is part of the network proper, behind which no pooling for the head is looked for."""
    wide = any(isinstance(child, nn.Conv2d) and max(child.kernel_size) > 1 for child in module.modules())
    return path in stages or wide or has_attention(module)


def _pooled_by_function(model: nn.Module, head: str, path: str, usual: Tap) -> Tap | None:
    """The output of a module, if the mean over its positions may be what goes to the head."""
    declared = getattr(model, "global_pool", None)
    container, inside, _ = head.partition(".")
    if (inside and path.startswith(f"{container}.")) or (isinstance(declared, str) and declared != "avg"):
        return None
    if usual.prefix_tokens and declared != "avg":
        # Where there is a class token, it is most often what goes to the head.
        return None
    module = model.get_submodule(path)
    if isinstance(module, nn.LayerNorm) and "2d" not in type(module).__name__ and usual.layout == "nchw":
        usual = replace(usual, layout="nhwc")
    return replace(usual, module=path, site="output")
