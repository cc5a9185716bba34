"""Gradients of several terms, some of them bounded by the gradient of the task."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from attention_transfer.errors import InputError
from attention_transfer.methods.method import Term


@dataclass(frozen=True, eq=False)
class Limits:
    """What is needed to bound the gradients of a step.

    Args:
        task: name of the term whose gradient is the measure.
        parameters: gives those that move and that the step's terms or logits are made with, by name.
        unreached_by_task: names of those that the task's term is known not to depend on.
        epoch: since the phase began, from 0.
    """

    task: str
    parameters: Callable[[], Mapping[str, nn.Parameter]]
    unreached_by_task: Collection[str]
    epoch: int

    def loss(self, terms: Mapping[str, Term], outputs: Sequence[Tensor]) -> Float[Tensor, ""]:
        """The sum of all terms, whose gradient is that of `limited_gradients`, however it is asked for.

        Args:
            terms: of one step, by name.
            outputs: of the student in this step.
        """
        pass_ = _Pass()
        for output in {id(each): each for each in outputs if each.requires_grad}.values():
            # What frees the graph inside of the backward pass leaves none for what is added to the loss.
            output.register_hook(pass_.check)
        named = self.parameters()
        return cast(Tensor, _LimitedSum.apply(self, terms, pass_, named, *named.values()))


class _Pass:
    """Where the backward pass of a step is."""

    def __init__(self) -> None:
        self.inside = self.done = False

    def check(self, gradient: Tensor) -> None:
        """Refuse a gradient of the logits after the graph that they were made with.

        Raises:
            InputError: in words, where torch would speak of a second time.
        """
        del gradient
        if self.done and not self.inside:
            raise InputError(
                "a term limits its gradient, so that out.loss cannot be summed with a loss of out.student_logits: call "
                "backward(retain_graph=True) of your own loss first, and out.loss.backward() after it"
            )


class _LimitedSum(torch.autograd.Function):
    """Bounds gradients where they end, in the parameters themselves.

    Whatever reads their gradients (wrappers for several processes, scaling, accumulation, hooks of their owner) sees
    the bounded ones alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        limits: Limits,
        terms: Mapping[str, Term],
        pass_: _Pass,
        named: Mapping[str, nn.Parameter],
        *parameters: Tensor,
    ) -> Tensor:
        del parameters
        ctx.limits, ctx.terms, ctx.pass_, ctx.named = limits, terms, pass_, named
        return sum_of([term.weighted.detach() for term in terms.values()])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise InputError(
                "a term limits its gradient, which cannot be differentiated again: leave out create_graph=True, or the "
                "limit (MultiHeadGraph(limit_gradient=False))"
            )
        limits: Limits = ctx.limits
        ctx.pass_.inside = True
        try:
            with torch.enable_grad():
                gradients = limited_gradients(
                    ctx.terms, limits.task, ctx.named, limits.unreached_by_task, limits.epoch, grad_outputs[0]
                )
        finally:
            ctx.pass_.inside, ctx.pass_.done = False, True
        return None, None, None, None, *gradients


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """The sum of at least one scalar."""
    return torch.stack(list(values)).sum() if len(values) > 1 else values[0]


def limited_gradients(
    terms: Mapping[str, Term],
    task: str,
    named: Mapping[str, nn.Parameter],
    unreached_by_task: Collection[str],
    epoch: int,
    scale: Float[Tensor, ""] | None = None,
) -> list[Tensor | None]:
    """The gradient of all terms, where terms with a limit are first scaled down to it, parameter by parameter.

    Among several processes every gradient is averaged before it is measured, so that all come to the same.

    Args:
        terms: of one step, by name.
        task: name of the term whose gradient is the measure.
        named: parameters to differentiate by.
        unreached_by_task: names of those that the task's term is known not to depend on. A gradient of None does not
            tell: a compiled step gives zeros for a parameter that only other terms reach.
        epoch: since the phase began, from 0.
        scale: multiplies the loss. It goes through the networks with the gradient, as half precision wants it.

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
    totals = _gradients(measure, parameters, scale, keep=True)
    norms = [
        None if gradient is None or name in unreached_by_task else torch.linalg.vector_norm(gradient)
        for name, gradient in zip(named, totals, strict=True)
    ]
    others = _gradients(free, parameters, scale, keep=last is not None)
    totals = [_sum(first, second) for first, second in zip(totals, others, strict=True)]
    for term in limited:
        assert term.limit is not None
        ratio = term.limit.ratio(epoch)
        found = _gradients([term], parameters, scale, keep=term is not last)
        for i, (gradient, bound) in enumerate(zip(found, norms, strict=True)):
            if gradient is not None and bound is not None:
                norm = torch.linalg.vector_norm(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
                gradient = gradient * (ratio * bound / norm).clamp_max(1.0)
            totals[i] = _sum(totals[i], gradient)
    return totals


def _gradients(
    terms: Sequence[Term], parameters: Sequence[nn.Parameter], scale: Tensor | None, *, keep: bool
) -> list[Tensor | None]:
    values = [term.weighted for term in terms if term.value.requires_grad]
    if not values:
        return [None] * len(parameters)
    total = sum_of(values)
    outer = None if scale is None else scale.to(total.dtype)
    found = torch.autograd.grad(total, parameters, outer, retain_graph=keep, allow_unused=True)
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
