"""Gradients of several terms, some of them bounded by the gradient of the others."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from attention_transfer.methods.method import Term


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """The sum of at least one scalar."""
    return torch.stack(list(values)).sum() if len(values) > 1 else values[0]


def limited_gradients(terms: Iterable[Term], parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """The gradient of all terms, where terms with a limit are first scaled down to it, parameter by parameter.

    Args:
        terms: of one step.
        parameters: to differentiate by.

    Returns:
        One gradient per parameter; None where no term reaches it. A parameter that only a limited term reaches has no
        task gradient to be limited by and receives the term's gradient whole.
    """
    terms = list(terms)
    free = [term.weighted for term in terms if term.limit is None and term.weighted.requires_grad]
    totals: list[Tensor | None] = [None] * len(parameters)
    if free:
        totals = list(torch.autograd.grad(sum_of(free), parameters, retain_graph=True, allow_unused=True))
    norms = [None if gradient is None else torch.linalg.vector_norm(gradient) for gradient in totals]
    limited = [term for term in terms if term.limit is not None]
    for i, term in enumerate(limited):
        assert term.limit is not None
        last = i + 1 == len(limited)
        gradients = torch.autograd.grad(term.weighted, parameters, retain_graph=not last, allow_unused=True)
        for j, (gradient, bound) in enumerate(zip(cast(list[Tensor | None], gradients), norms, strict=True)):
            if gradient is None:
                continue
            if bound is not None:
                norm = torch.linalg.vector_norm(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
                gradient = gradient * (term.limit.ratio * bound / norm).clamp_max(1.0)
            total = totals[j]
            totals[j] = gradient if total is None else total + gradient
    return totals
