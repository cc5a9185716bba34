"""Optimiser and learning-rate schedule: timm's, from an experiment's fields."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from timm.optim import (
    create_optimizer_v2,  # pyright: ignore[reportPrivateImportUsage]
    param_groups_weight_decay,  # pyright: ignore[reportPrivateImportUsage]
)
from timm.scheduler import (
    CosineLRScheduler,  # pyright: ignore[reportPrivateImportUsage]
    MultiStepLRScheduler,  # pyright: ignore[reportPrivateImportUsage]
)
from timm.scheduler.scheduler import Scheduler
from torch import nn

from attention_transfer.experiment import Optimisation

# Longer than any training: a schedule that stays at its peak.
_NEVER = 2**62


def make_optimizer(modules: Mapping[str, nn.Module], optimisation: Optimisation) -> torch.optim.Optimizer:
    """An optimiser over the trainable parameters of some modules.

    Args:
        modules: what moves, by name.
        optimisation: settings.

    Raises:
        ValueError: if nothing is trainable or timm does not know the optimiser.
    """
    groups: Iterable[Any]
    if optimisation.decay_norm_and_bias:
        groups = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    else:
        groups = [
            group
            for module in modules.values()
            for group in param_groups_weight_decay(
                module, optimisation.weight_decay, no_weight_decay_list=_undecayed(module)
            )
            if group["params"]
        ]
    if not groups:
        raise ValueError("nothing to train: every parameter is frozen")
    try:
        return create_optimizer_v2(
            groups,
            opt=optimisation.optimizer,
            lr=optimisation.learning_rate,
            weight_decay=optimisation.weight_decay,
            momentum=optimisation.momentum,
        )
    except (AssertionError, ValueError) as error:
        raise ValueError(f"the optimiser {optimisation.optimizer!r} cannot be built by timm: {error}") from error


def make_scheduler(
    optimizer: torch.optim.Optimizer, optimisation: Optimisation, steps: int, steps_per_epoch: int
) -> Scheduler:
    """A learning rate for every step, a pure function of its number: call `step_update(step)` before each step.

    Args:
        optimizer: whose rates are set.
        optimisation: settings.
        steps: of the whole training.
        steps_per_epoch: for the warm-up.
    """
    warmup = round(optimisation.warmup_epochs * steps_per_epoch)
    if optimisation.schedule == "cosine":
        return CosineLRScheduler(
            optimizer,
            t_initial=max(1, steps),
            lr_min=optimisation.min_learning_rate,
            warmup_t=warmup,
            warmup_lr_init=0.0,
            t_in_epochs=False,
        )
    # timm drops one step early, as if the step had been made already.
    at = [round(share * steps) + 1 for share in optimisation.steps] if optimisation.schedule == "steps" else [_NEVER]
    return MultiStepLRScheduler(
        optimizer,
        decay_t=at,
        decay_rate=optimisation.step_factor,
        warmup_t=warmup,
        warmup_lr_init=0.0,
        t_in_epochs=False,
    )


def _undecayed(module: nn.Module) -> set[str]:
    names = getattr(module, "no_weight_decay", None)
    return set(cast(Iterable[str], names())) if callable(names) else set()
