"""Gradients of several terms, some of them bounded by the gradient of the task."""

from collections.abc import Collection, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, distributed, nn

from attention_transfer.methods.method import Term


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """The sum of at least one scalar."""
    return torch.stack(list(values)).sum() if len(values) > 1 else values[0]


def limited_gradients(
    terms: Mapping[str, Term],
    task: str,
    named: Mapping[str, nn.Parameter],
    reached_by_task: Collection[str],
    epoch: int,
) -> list[Tensor | None]:
    """The gradient of all terms, where terms with a limit are first scaled down to it, parameter by parameter.

    Among several processes every gradient is averaged before it is measured, so that all come to the same.

    Args:
        terms: of one step, by name.
        task: name of the term whose gradient is the measure.
        named: parameters to differentiate by.
        reached_by_task: names of those that the task's term depends on. A gradient of None does not tell: a compiled
            step gives zeros for a parameter that only other terms reach.
        epoch: since the phase began, from 0.

    Returns:
        One gradient per parameter; None where no term reaches it. A parameter that the task does not reach has nothing
        to be limited by and receives the term's gradient whole.
    """
    parameters = list(named.values())
    measure = [terms[task]] if task in terms else []
    free = [term for name, term in terms.items() if term.limit is None and name != task]
    limited = [term for term in terms.values() if term.limit is not None]
    # What is kept of the graph after the last of them would only take memory, and time with it.
    last = limited[-1] if limited else None
    totals = _gradients(measure, parameters, keep=True)
    norms = [
        None if gradient is None or name not in reached_by_task else torch.linalg.vector_norm(gradient)
        for name, gradient in zip(named, totals, strict=True)
    ]
    others = _gradients(free, parameters, keep=last is not None)
    totals = [_sum(first, second) for first, second in zip(totals, others, strict=True)]
    for term in limited:
        assert term.limit is not None
        ratio = term.limit.ratio(epoch)
        found = _gradients([term], parameters, keep=term is not last)
        for i, (gradient, bound) in enumerate(zip(found, norms, strict=True)):
            if gradient is not None and bound is not None:
                norm = torch.linalg.vector_norm(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
                gradient = gradient * (ratio * bound / norm).clamp_max(1.0)
            totals[i] = _sum(totals[i], gradient)
    return totals


def _gradients(terms: Sequence[Term], parameters: Sequence[nn.Parameter], *, keep: bool) -> list[Tensor | None]:
    values = [term.weighted for term in terms if term.value.requires_grad]
    if not values:
        return [None] * len(parameters)
    found = torch.autograd.grad(sum_of(values), parameters, retain_graph=keep, allow_unused=True)
    gradients = list(cast(Sequence[Tensor | None], found))
    if distributed.is_available() and distributed.is_initialized():
        # The same parameters are reached everywhere, so the processes agree on what is reduced.
        for gradient in gradients:
            if gradient is not None:
                distributed.all_reduce(gradient)
                gradient /= distributed.get_world_size()
    return gradients


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
