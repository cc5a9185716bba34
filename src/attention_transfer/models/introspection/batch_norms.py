"""The batch norm whose result, alone or in a sum, an activation takes; found from the way networks are written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture import Provider, Reading, ReadNetwork, Tap
from attention_transfer.models.introspection.pre_activations import is_activation, main_branch
from attention_transfer.models.introspection.stages import join


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
    """The batch norms that make the values of the taps, one per tap; None where no batch norm makes the value."""

    def bound(self, network: ReadNetwork, taps: Sequence[Tap]) -> Callable[[Reading], tuple[Norm | None, ...]]:
        return partial(_in_losses, network, [_norm_before(network.model, tap) for tap in taps])


def _in_losses(network: ReadNetwork, norms: Sequence[Norm | None], reading: Reading) -> tuple[Norm | None, ...]:
    del reading
    return tuple(norm and Norm(network.precise(norm.scale), network.precise(norm.shift)) for norm in norms)


def batch_norm_before(model: nn.Module, tap: Tap) -> str | None:
    """Path of the batch norm that makes a value, at the end of the main branch where a shortcut is added to it.

    Args:
        model: the network.
        tap: the input of an activation, or the output of a module that ends without one.

    Returns:
        None where something else makes the value, or nobody can tell.
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


def _norm_before(model: nn.Module, tap: Tap) -> Norm | None:
    path = batch_norm_before(model, tap)
    norm = None if path is None else model.get_submodule(path)
    if not isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) or not norm.affine:
        return None
    return Norm(norm.weight, norm.bias)
