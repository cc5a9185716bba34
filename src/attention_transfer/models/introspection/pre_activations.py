"""Inputs of the last activations of stages, and the batch norms that make them, found from how networks are written.

>>> from torch import nn
>>> is_activation(nn.ReLU()), is_activation(nn.Linear(2, 2))
(True, False)
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture import Provider, Reading, ReadNetwork, Tap
from attention_transfer.models.introspection.stages import join, members

_KNOWN = {"attention_transfer", "timm", "torchvision", "transformers"}
_SHORTCUTS = ("downsample", "shortcut", "proj")
_LINEAR = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
_LAST_ACTIVATIONS = ("relu3", "relu2", "act3", "act2", "act", "activation")
# torchvision's Inception blocks; their ReLU is a function that no module shows.
_HIDDEN_RELU = "BasicConv2d"
_SILENT = re.compile("Identity|Drop|StochasticDepth|LayerScale|LearnableAffine|Permute")


def before_activation(model: nn.Module, output: Tap) -> Tap | None:
    """The value of a stage before its last activation.

    Args:
        model: the network.
        output: the stage's output.

    Returns:
        The input of the activation; `output` itself where the stage ends without one; None if unknown. Blocks
        of other packages may call functions that no module shows, so nothing is said about them.
    """
    path, block = _last_block(output.module, model.get_submodule(output.module))
    if _library(block) == "torch":
        if is_activation(block):
            within = output.module if path != output.module else None
            return replace(output, module=path, site="input", item=None, within=within)
        return output if isinstance(block, _LINEAR) else None
    if _library(block) not in _KNOWN:
        return None
    if any(type(module).__name__ == _HIDDEN_RELU for module in block.modules()):
        return None
    if output.layout == "tokens":
        return output
    activation = _after_addition(block)
    if activation is None:
        ends = list(main_branch(block))
        if ends and not is_activation(ends[-1][1]):
            return output
        # A convolution with its norm and activation, and nothing added after them.
        if not ends or getattr(block, "has_skip", True):
            return None
        activation = ends[-1][0]
    # Where it serves several layers, the last run in the block is that after the sum.
    return replace(output, module=join(path, activation), site="input", item=None, within=path)


def _last_block(path: str, module: nn.Module) -> tuple[str, nn.Module]:
    """The innermost list member that a stage ends with."""
    sequential = True
    while True:
        children = members(module)
        # What comes last in a Sequential is its value; in other lists, a single operation may not be the end.
        sequential = sequential and type(module) is nn.Sequential
        if not children or not _is_list(module) or (_is_leaf(children[-1][1]) and not sequential):
            return path, module
        name, module = children[-1]
        path = join(path, name)


def _is_list(module: nn.Module) -> bool:
    """Whether a module runs its children in turn, or ends with a list of blocks."""
    names = [name for name, _ in module.named_children()]
    if isinstance(module, nn.Sequential | nn.ModuleList) or all(re.fullmatch(r"b\d+", name) for name in names):
        return True
    last = module.get_submodule(names[-1])
    holds_blocks = isinstance(last, nn.Sequential | nn.ModuleList) and not any(_is_leaf(c) for c in last.children())
    return names[-1] in ("blocks", "layers") and holds_blocks


def _after_addition(block: nn.Module) -> str | None:
    """The activation that follows the sum of a residual block with its shortcut."""
    if not any(hasattr(block, name) for name in _SHORTCUTS):
        return None
    leaves = list(main_branch(block))
    for name in _LAST_ACTIVATIONS:
        # One that is followed by a convolution acts inside the branch.
        if leaves and leaves[-1][0] == name and is_activation(leaves[-1][1]):
            return name
    # The same module after every convolution: its last call is the one after the sum.
    return "relu" if isinstance(getattr(block, "relu", None), nn.ReLU) else None


def main_branch(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What computes in a block's main branch, in the order of registration."""
    for name, module in block.named_modules():
        on_shortcut = name.partition(".")[0] in _SHORTCUTS
        if name and _is_leaf(module) and not on_shortcut and not _SILENT.search(type(module).__name__):
            yield name, module


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation function."""
    return _is_leaf(module) and "activation" in type(module).__module__


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _library(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]


@dataclass(frozen=True)
class Norm:
    """What the last batch norm before a value, alone or in a sum, makes of each channel.

    Args:
        scale: standard deviation, which may be negative; live parameter.
        shift: mean; live parameter.
    """

    scale: Float[Tensor, " c"]
    shift: Float[Tensor, " c"]


@dataclass(frozen=True)
class BatchNorms(Provider[tuple[Norm | None, ...]]):
    """The batch norms that make the values of the taps, one per tap; None where no batch norm makes the value.

    Example:
        >>> from attention_transfer.methods import Request
        >>> Request((Tap("layer1", "input"),), provide=(BatchNorms(),)).provide
        (BatchNorms(),)
    """

    def bound(self, network: ReadNetwork, taps: Sequence[Tap]) -> Callable[[Reading], tuple[Norm | None, ...]]:
        """Find the norm of each tap; its parameters stay live."""
        return partial(_norms_at, network, [batch_norm_before(network.model, tap) for tap in taps])


def _norms_at(network: ReadNetwork, paths: Sequence[str | None], reading: Reading) -> tuple[Norm | None, ...]:
    del reading
    return tuple(None if path is None else _norm_at(network, path) for path in paths)


def _norm_at(network: ReadNetwork, path: str) -> Norm | None:
    # Looked up each time: parameters and modules can be exchanged after the distiller was built.
    norm = network.model.get_submodule(path)
    if not isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) or not norm.affine:
        return None
    return Norm(network.precise(norm.weight), network.precise(norm.bias))


def batch_norm_before(model: nn.Module, tap: Tap) -> str | None:
    """Path of the batch norm that makes a value, at the end of the main branch where a shortcut is added to it.

    Args:
        model: the network.
        tap: the input of an activation, or the output of a module that ends without one.

    Returns:
        None where something else makes the value, or that could not be determined.
    """
    if tap.site == "input":
        parent, _, name = tap.module.rpartition(".")
        leaves = list(main_branch(model.get_submodule(parent)))
        place = next((i for i, (path, _) in enumerate(leaves) if path == name), None)
        if place is None:
            return None
        if _acts_after_every_convolution(leaves):
            leaves.append(leaves.pop(place))
            place = len(leaves) - 1
        before = leaves[:place]
    else:
        parent, before = tap.module, list(main_branch(model.get_submodule(tap.module)))
    # Subclasses may act on their result before they hand it on.
    if not before or type(before[-1][1]) not in (nn.BatchNorm2d, nn.SyncBatchNorm):
        return None
    return join(parent, before[-1][0])


def _acts_after_every_convolution(leaves: list[tuple[str, nn.Module]]) -> bool:
    """Whether a block has one activation for all of its convolutions, so that the last call comes after the last."""
    acts = [i for i, (_, module) in enumerate(leaves) if is_activation(module)]
    convolutions = [i for i, (_, module) in enumerate(leaves) if isinstance(module, nn.Conv2d)]
    return len(acts) == 1 and len(convolutions) > 1 and convolutions[0] < acts[0] < convolutions[-1]
