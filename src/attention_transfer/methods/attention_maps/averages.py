"""Attention maps averaged over some of their axes before they are transferred."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attention_transfer.capture import Attention
from attention_transfer.errors import InputError

Axis = Literal["examples", "layers", "heads", "queries"]
_DIMENSIONS = {"examples": 0, "heads": 1, "queries": 2}


def averaged(targets: Sequence[Attention], axes: Sequence[Axis]) -> list[Attention]:
    """Maps averaged over axes, one per layer; a dimension that is averaged over has size 1.

    «Aggregated attention transfer» in the appendix of Li et al. (NeurIPS 2024, arXiv:2411.09702).

    Args:
        targets: one per layer; of equal shape where layers are averaged over.
        axes: over which.
    """
    dimensions = [_DIMENSIONS[axis] for axis in axes if axis in _DIMENSIONS]
    means = [each.map().mean(dimensions, keepdim=True) if dimensions else each.map() for each in targets]
    if "layers" in axes:
        means = [torch.stack(means).mean(0)] * len(means)
    return [only_map(target, mean) for target, mean in zip(targets, means, strict=True)]


def check_same_in_all_layers(what: str, student: Sequence[Attention], teacher: Sequence[Attention]) -> None:
    """Refuse layers of which no mean can be taken.

    Args:
        what: takes one, for the message.
        student: its layers.
        teacher: same as for `student`.

    Raises:
        ValueError: if heads, tokens or the place of windows of a network differ from layer to layer.
    """
    for role, layers in (("student", student), ("teacher", teacher)):
        if len({(each.window_shift, each.padded) for each in layers}) > 1:
            raise InputError(
                f"{what} wants windows at the same place in all layers; those of the {role} lie elsewhere in some: "
                "choose layers whose windows are shifted alike"
            )
        if len({each.shape for each in layers}) > 1:
            raise InputError(
                f"{what} wants the same heads and tokens in all layers; those of the {role} differ: choose layers of "
                "one stage"
            )


def only_map(attention: Attention, weights: Float[Tensor, "b h n m"]) -> Attention:
    """Another map over the tokens of a call."""
    return Attention(
        weights=weights,
        prefix_tokens=attention.prefix_tokens,
        grid=attention.grid,
        class_tokens=attention.class_tokens,
        in_rows=attention.in_rows,
    )
