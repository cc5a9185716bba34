"""Which parameters each term of a loss moves."""

from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from typing import cast

import torch
from torch import Tensor, nn

from attention_transfer.capture import CaptureError
from attention_transfer.capture.input_gradients import can_be_differentiated
from attention_transfer.errors import InputError
from attention_transfer.methods import Phase, Term


def check_finite(terms: Mapping[str, Term]) -> None:
    """Refuse terms from which nothing can be learned.

    Args:
        terms: by name, of noise.

    Raises:
        ValueError: for one that is infinite or not a number.
    """
    found = {name: float(term.value.detach()) for name, term in terms.items()}
    endless = [f"{name} is {value}" for name, value in found.items() if not isfinite(value)]
    if endless:
        raise InputError(
            f"{', '.join(endless)} on noise, so that nothing can be learned from it: do both networks have finite "
            "weights, and may the student see all that its teacher sees (masks)?"
        )


def parameters_reached(terms: Mapping[str, Term], named: Mapping[str, nn.Parameter]) -> dict[str, frozenset[str]]:
    """Names of the parameters that each term has a gradient for.

    Args:
        terms: by name; their graph is kept.
        named: everything that is trained.

    Raises:
        CaptureError: for a term that reaches none of them, or cannot be differentiated.
    """
    for name, term in terms.items():
        if not term.value.requires_grad:
            raise CaptureError(
                f"the term {name!r} does not depend on any trainable parameter of the student: is it detached, or its "
                "forward pass run under torch.no_grad() or torch.inference_mode()?"
            )
    reached: dict[str, frozenset[str]] = {}
    for name, term in terms.items():
        if not can_be_differentiated(term.value):
            raise CaptureError(_why_no_gradient(name, "it has no second derivative"))
        try:
            reached[name] = reached_by(term.value, named)
        except RuntimeError as error:
            raise CaptureError(_why_no_gradient(name, str(error))) from error
        if not reached[name]:
            raise CaptureError(f"the term {name!r} does not depend on any trainable parameter")
    return reached


def reached_by(value: Tensor, named: Mapping[str, nn.Parameter]) -> frozenset[str]:
    """Names of the parameters that a value has a gradient for; its graph is kept.

    Args:
        value: of any shape.
        named: everything that is trained.
    """
    if not value.requires_grad:
        return frozenset()
    gradients = torch.autograd.grad(value.sum(), list(named.values()), retain_graph=True, allow_unused=True)
    pairs = zip(named, cast(Sequence[Tensor | None], gradients), strict=True)
    return frozenset(path for path, gradient in pairs if gradient is not None)


def check_phases(phases: Sequence[Phase], terms: Collection[str]) -> None:
    """Refuse a training with a phase in which nothing is learned.

    Args:
        phases: of the training.
        terms: names of all terms.

    Raises:
        ValueError: for a phase that counts none of them.
    """
    for phase in phases:
        if not any(phase.counts(term) for term in terms):
            raise InputError(
                f"nothing is learned in the phase {phase.name!r}, which leaves out {', '.join(sorted(terms))}: give a "
                "task_weight above 0, or another method"
            )


def _why_no_gradient(term: str, error: str) -> str:
    if "Checkpointing" in error or "use_reentrant=True" in error:
        return "the student is checkpointed with use_reentrant=True, which hides its parameters: use False"
    return f"the gradient of the term {term!r} cannot be computed: {error}"
