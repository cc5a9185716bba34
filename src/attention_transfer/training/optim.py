"""Optimiser and learning-rate schedule: timm's, from an experiment's fields."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from timm.optim import (
    create_optimizer_v2,  # pyright: ignore[reportPrivateImportUsage]
    get_optimizer_info,  # pyright: ignore[reportPrivateImportUsage]
    param_groups_layer_decay,  # pyright: ignore[reportPrivateImportUsage]
    param_groups_weight_decay,  # pyright: ignore[reportPrivateImportUsage]
)
from timm.scheduler import (
    CosineLRScheduler,  # pyright: ignore[reportPrivateImportUsage]
    MultiStepLRScheduler,  # pyright: ignore[reportPrivateImportUsage]
)
from timm.scheduler.scheduler import Scheduler
from torch import nn

from attention_transfer.errors import InputError
from attention_transfer.experiment import Optimisation

# Longer than any training: a schedule that stays at its peak.
_NEVER = 2**62


def make_optimizer(modules: Mapping[str, nn.Module], optimisation: Optimisation) -> torch.optim.Optimizer:
    """An optimiser over the trainable parameters of some modules.

    Args:
        modules: what moves, by name; the layers of `student` may have rates of their own.
        optimisation: settings.

    Raises:
        ValueError: if nothing is trainable, timm does not know the optimiser, it has no betas, or the student does not
            know its layers.
    """
    groups = [group for name, module in modules.items() for group in _groups(name, module, optimisation)]
    if not groups:
        raise InputError("nothing to train: every parameter is frozen")
    try:
        return create_optimizer_v2(
            groups,
            opt=optimisation.optimizer,
            lr=optimisation.learning_rate,
            weight_decay=optimisation.weight_decay,
            momentum=optimisation.momentum,
            **_betas(optimisation),
        )
    except (AssertionError, ValueError) as error:
        raise InputError(f"the optimiser {optimisation.optimizer!r} cannot be built by timm: {error}") from error


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
        after = bool(optimisation.cosine_after_warmup)
        return CosineLRScheduler(
            optimizer,
            # timm remarks on a single step, which nothing but the shortest trainings has.
            t_initial=max(2, steps - warmup if after else steps),
            lr_min=optimisation.min_learning_rate,
            warmup_t=warmup,
            warmup_lr_init=0.0,
            warmup_prefix=after,
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


def _groups(name: str, module: nn.Module, optimisation: Optimisation) -> list[Any]:
    """What of a module moves: parameters, or groups of them that have decays and rates of their own."""
    spared = set[str]() if optimisation.decay_norm_and_bias else _undecayed(module)
    if name == "student" and optimisation.layer_decay is not None:
        if not hasattr(module, "group_matcher"):
            raise InputError(
                f"layer_decay needs a network that knows the order of its layers, as timm's do (group_matcher); "
                f"{type(module).__name__} does not: take the student from timm (timm:NAME), or leave out --layer-decay"
            )
        return param_groups_layer_decay(
            module,
            weight_decay=optimisation.weight_decay,
            no_weight_decay_list=spared,
            weight_decay_exclude_1d=not optimisation.decay_norm_and_bias,
            layer_decay=optimisation.layer_decay,
        )
    if optimisation.decay_norm_and_bias:
        moving = [p for p in module.parameters() if p.requires_grad]
        # Beside groups there must be no bare parameters.
        return moving if optimisation.layer_decay is None or not moving else [{"params": moving}]
    groups = param_groups_weight_decay(module, optimisation.weight_decay, no_weight_decay_list=spared)
    return [group for group in groups if group["params"]]


def _undecayed(module: nn.Module) -> set[str]:
    if isinstance(module, nn.ModuleDict):
        # What each method learns.
        return {f"{name}.{inner}" for name, child in module.items() for inner in _undecayed(child)}
    names = getattr(module, "no_weight_decay", None)
    return set(cast(Iterable[str], names())) if callable(names) else set()


def _betas(optimisation: Optimisation) -> dict[str, Any]:
    if optimisation.betas is None:
        return {}
    # Lookahead and its like come before the name.
    kind = optimisation.optimizer.lower().rpartition("_")[2]
    if not get_optimizer_info(kind).has_betas:
        raise InputError(
            f"{optimisation.optimizer} has no betas: leave out --betas, or take an optimiser such as adamw"
        )
    return {"betas": optimisation.betas}
