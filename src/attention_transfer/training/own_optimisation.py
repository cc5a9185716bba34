"""Optimisers and schedules that a user gives, phase by phase."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from attention_transfer.distiller import Distiller
from attention_transfer.errors import InputError, first_line
from attention_transfer.phases import Stretch
from attention_transfer.training.plan import Position, Rates

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
Factor = Callable[[float], float]
_DEFAULT_RATE = 1e-3


def cosine(fraction: float) -> float:
    """From 1 at the start to 0 at the end."""
    return (1 + math.cos(math.pi * fraction)) / 2


@dataclass(frozen=True)
class OwnOptimisation:
    """What moves the weights, as a user says it.

    Args:
        distiller: whose parameters are moved.
        optimizer: one, or what makes one of parameters; None is AdamW.
        schedule: as `fit` says.
        every: whether a scheduler of torch counts epochs or steps.
    """

    distiller: Distiller
    optimizer: Optimizer | MakeOptimizer | None
    schedule: LRScheduler | Factor | Literal["cosine", "constant"] | None
    every: Literal["epoch", "step"] = "epoch"

    def check(self, epochs: int) -> Optimizer:
        """An optimiser as the first phase has it, to look at.

        Raises:
            InputError: for what is no optimiser or schedule, or does not go with the parameters or phases.
        """
        phases, schedule = self.distiller.phases, self.schedule
        names = " and ".join(phase.name for phase in phases)
        if isinstance(self.optimizer, Optimizer):
            if len(phases) > 1:
                raise InputError(
                    f"the training has {len(phases)} phases, {names}, each with an optimiser of its own: give a "
                    "function that makes one, such as optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
                )
            check_parameters(self.optimizer, self.distiller)
        elif self.optimizer is not None and not callable(self.optimizer):
            raise InputError(
                f"optimizer must be an optimiser of torch or a function that makes one of parameters, not "
                f"{self.optimizer!r}: give torch.optim.AdamW(distiller.trainable_parameters(), lr=1e-3)"
            )
        if isinstance(schedule, LRScheduler):
            self._check_scheduler(schedule, epochs)
        elif schedule is not None and schedule not in ("cosine", "constant"):
            _check_factor(schedule)
        if self.every not in ("epoch", "step"):
            raise InputError(f"schedule_every must be 'epoch' or 'step', not {self.every!r}")
        made = self._made(list(self.distiller.trainable_parameters()))
        if isinstance(made, torch.optim.LBFGS):
            raise InputError("LBFGS computes the loss several times in a step, which the loop does once: take another")
        return made

    def enter(self, stretch: Stretch, steps: int | None) -> tuple[Optimizer, Rates]:
        """The optimiser of a phase, and what sets its rates."""
        moving = [
            parameter
            for module in self.distiller.trained_modules().values()
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        optimizer, phase = self._made(moving), stretch.phase
        for name, value in (("lr", phase.learning_rate), ("weight_decay", phase.weight_decay)):
            for group in optimizer.param_groups if value is not None else ():
                group[name] = value
        schedule = "constant" if phase.learning_rate is not None else self.schedule
        if isinstance(schedule, LRScheduler):
            return optimizer, _stepping(schedule, self.every)
        if schedule == "constant" or (schedule is None and self.optimizer is not None):
            return optimizer, lambda position: None
        factor = cosine if schedule is None or isinstance(schedule, str) else schedule
        return optimizer, _scaling(optimizer, factor, stretch.length, steps)

    def described(self, optimizer: Optimizer) -> dict[str, Any]:
        """For the record of a run: classes and settings."""
        groups = [
            {name: _plain(value) for name, value in group.items() if name != "params"}
            | {"parameters": len(group["params"])}
            for group in optimizer.param_groups
        ]
        schedule = self.schedule
        if isinstance(schedule, LRScheduler):
            kept = {name: _plain(value) for name, value in schedule.state_dict().items()}
            known: Any = {"kind": type(schedule).__name__, "every": self.every, **kept}
        elif schedule is None or isinstance(schedule, str):
            known = schedule or ("cosine" if self.optimizer is None else "constant")
        else:
            known = getattr(schedule, "__qualname__", type(schedule).__name__)
        return {"optimizer": type(optimizer).__name__, "groups": groups, "schedule": known}

    def _made(self, parameters: list[nn.Parameter]) -> Optimizer:
        if isinstance(self.optimizer, Optimizer):
            return self.optimizer
        if self.optimizer is None:
            return torch.optim.AdamW(parameters, lr=_DEFAULT_RATE)
        made = cast(object, self.optimizer(parameters))
        if not isinstance(made, Optimizer):
            raise InputError(
                f"optimizer gave {type(made).__name__} for parameters, where an optimiser of torch is wanted"
            )
        strangers = {id(p) for group in made.param_groups for p in group["params"]} ^ {id(p) for p in parameters}
        if strangers:
            raise InputError(
                f"optimizer made an optimiser of other parameters than it was given ({len(strangers)} differ): use "
                "them all, and freeze what shall not learn before the distiller is built"
            )
        return made

    def _check_scheduler(self, schedule: LRScheduler, epochs: int) -> None:
        kind = type(schedule).__name__
        if isinstance(schedule, ReduceLROnPlateau):
            raise InputError(
                "ReduceLROnPlateau goes by what is measured, which no schedule here is given: take another"
            )
        if not isinstance(self.optimizer, Optimizer) or schedule.optimizer is not self.optimizer:
            raise InputError(
                f"the scheduler {kind} must be one of the optimiser that is given: optimizer=o, schedule={kind}(o, ...)"
            )
        made = _steps_made(schedule.state_dict())
        if made > 0:
            raise InputError(
                f"the scheduler {kind} has made {made} steps already: give a new one, fit() brings it "
                "to where an interrupted run stopped"
            )
        batchwise = isinstance(schedule, CyclicLR) or (
            isinstance(schedule, OneCycleLR) and schedule.total_steps != epochs
        )
        if batchwise and self.every == "epoch":
            raise InputError(f"{kind} counts steps, and schedule_every is 'epoch': give schedule_every='step'")


def check_parameters(optimizer: Optimizer, distiller: Distiller) -> None:
    """Refuse an optimiser of other parameters than those that learn.

    Raises:
        InputError: naming one.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    learning = {id(p) for p in distiller.trainable_parameters()}
    names = {id(p): name for name, p in distiller.named_parameters()}
    lacking = [names.get(each, "?") for each in learning - held]
    if lacking:
        raise InputError(
            f"the optimiser lacks {len(lacking)} of the {len(learning)} parameters that learn, such as "
            f"{min(lacking)!r}: make it of distiller.trainable_parameters()"
        )
    if held - learning:
        raise InputError(
            f"the optimiser has {len(held - learning)} parameters that do not learn here (the teacher's, or "
            "frozen ones): make it of distiller.trainable_parameters()"
        )


def _check_factor(schedule: object) -> None:
    if not callable(schedule):
        raise InputError(
            f"schedule must be 'cosine', 'constant', a scheduler of torch or a function of the share of the steps that "
            f"are made, not {schedule!r}"
        )
    for fraction in (0.0, 0.5, 1.0):
        try:
            value: object = schedule(fraction)
        except Exception as error:  # whatever somebody's function falls over
            raise InputError(
                f"schedule failed for {fraction} ({first_line(error)}): it is given the share 0…1 of the steps that "
                "are made, and gives a factor of the learning rate"
            ) from error
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise InputError(
                f"schedule gave {value!r} for {fraction}: it must give a factor of the learning rate, a number of at "
                "least 0, for the share 0…1 of the steps that are made"
            )


def _scaling(optimizer: Optimizer, factor: Factor, epochs: int, steps: int | None) -> Rates:
    first: Sequence[Any] = [_value(group["lr"]) for group in optimizer.param_groups]

    def rates(position: Position) -> None:
        # Of loaders without a length, only the epoch is known.
        share = position.epoch / epochs if steps is None else position.updates / (epochs * steps)
        for group, rate in zip(optimizer.param_groups, first, strict=True):
            scaled = rate * factor(min(1.0, share))
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(scaled)
            else:
                group["lr"] = scaled

    return rates


def _stepping(schedule: LRScheduler, every: Literal["epoch", "step"]) -> Rates:
    done = 0

    def rates(position: Position) -> None:
        nonlocal done
        wanted = position.epoch if every == "epoch" else position.updates
        with warnings.catch_warnings():
            # On resuming, the steps of before are made again without the optimiser's.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            while done < wanted:
                schedule.step()
                done += 1

    return rates


def _steps_made(state: Mapping[str, Any]) -> int:
    """Steps of a scheduler by its state; a chained one counts none itself, and its parts do."""
    if "last_epoch" in state:
        return int(state["last_epoch"])
    lists = [cast("list[Any]", value) for value in state.values() if isinstance(value, list)]
    return max([0, *(_steps_made(part) for parts in lists for part in parts if isinstance(part, dict))])


def _value(rate: Any) -> float:
    return float(rate)


def _plain(value: Any) -> Any:
    """A setting as JSON holds it."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}  # pyright: ignore
    return type(value).__name__
