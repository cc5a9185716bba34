"""How near two computations of the same values must come: as near as their arithmetic does, on every processor."""

from typing import Any

import torch
from torch import Tensor


def assert_near(
    found: Any,
    wanted: Any,
    *,
    steps: float = 128,
    scale: float | None = None,
    kind: torch.dtype | None = None,
    msg: str = "",
) -> None:
    """Values agree but for rounding: the norm of what differs is a few rounding steps of the norm of what is wanted.

    Sums in another order, fused operations and wider registers differ by that much; a bound on single values, or one
    that knows nothing of their size, is met on some processors and missed on others.

    Args:
        found: a tensor, an array or a number.
        wanted: likewise, of the same shape.
        steps: how many, of the coarser of both types.
        scale: in place of the norm of what is wanted, where that is small beside what it was computed from.
        kind: in which the values were computed, where they do not tell, as numbers do not.
        msg: what is compared.
    """
    ours, theirs = (torch.as_tensor(each).detach() for each in (found, wanted))
    kinds = [kind] if kind is not None else [each.dtype for each in (ours, theirs) if each.is_floating_point()]
    assert ours.numel() == theirs.numel(), f"{msg} {tuple(ours.shape)} beside {tuple(theirs.shape)}"
    difference, size = (_norm(each) for each in (ours.double().flatten() - theirs.double().flatten(), theirs.double()))
    # Whole numbers are the same.
    step = max((torch.finfo(each).eps for each in kinds), default=0.0)
    allowed = steps * step * (size if scale is None else scale)
    coarser = next((each for each in kinds if torch.finfo(each).eps == step), ours.dtype)
    assert difference <= allowed, f"{msg} differs by {difference:.3g} where {allowed:.3g} is allowed in {coarser}"


def _norm(values: Tensor) -> float:
    return float(values.norm())
