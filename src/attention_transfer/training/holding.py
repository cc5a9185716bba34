"""Weights without gradient held fixed: the optimiser's decay is undone where there is no gradient."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor, nn


@contextmanager
def held_without_gradient(parameters: Iterable[nn.Parameter]) -> Generator[None]:
    """Around a step of the optimiser: rows of weights whose gradient is exactly zero are afterwards what they were.

    A row is what one output of a layer is made with: the first dimension of a weight, one number of a bias. Where the
    attention of a student is its teacher's, its queries and keys lead nowhere, and in a layer that computes queries,
    keys and values in one an optimiser would decay them nevertheless.

    Args:
        parameters: with the gradients of the step.
    """
    held = [(p, p.detach().clone(), _rests(p.grad)) for p in parameters if p.grad is not None and p.ndim]
    yield
    with torch.no_grad():
        for parameter, before, rests in held:
            parameter.copy_(torch.where(rests, before, parameter))


def _rests(gradient: Tensor) -> Bool[Tensor, "..."]:
    """Which rows have no gradient, in a shape that goes with the weights."""
    rows = (gradient == 0).flatten(1).all(1) if gradient.ndim > 1 else gradient == 0
    return rows.reshape(-1, *[1] * (gradient.ndim - 1))
