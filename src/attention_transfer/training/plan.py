"""Inputs of the training loop: distiller, batches, optimisation and checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from attention_transfer.batch import Batch
from attention_transfer.phases import Stretch
from attention_transfer.training.averaging import WeightAverage
from attention_transfer.training.device import Arithmetic

if TYPE_CHECKING:
    from attention_transfer.distiller import Distiller
    from attention_transfer.pretraining import MaskedAutoencoder

    Trainee = Distiller | MaskedAutoencoder


class Batches(Protocol):
    """Batches to learn from, epoch by epoch, which can be gone through from any of them on."""

    @property
    def num_batches(self) -> int | None:
        """Batches of every epoch; None if unknown."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            epoch: its number, from 0.
            start: number of the first batch to yield.
        """
        ...


@dataclass(frozen=True)
class Position:
    """Where in a phase a step of the optimiser is.

    Args:
        epoch: since the phase began, from 0.
        step: of the optimiser in the epoch, from 0.
        updates: steps of the optimiser that the phase has behind it.
    """

    epoch: int
    step: int
    updates: int


Rates = Callable[[Position], None]
"""Sets the learning rates of a step, before it."""


@dataclass(frozen=True)
class Plan:
    """What the training loop needs.

    Args:
        distiller: distiller on the device of `place`.
        place: device, precision and memory format.
        batches: training batches.
        seed: seed of everything that is random in a step.
        epochs: epochs of the main phase.
        enter: makes the optimiser of a phase and what sets its rates, given the optimiser's steps in an epoch (None
            if unknown).
        measure: gives the student's numbers by split, from its average where there is one; `last` at the end.
        keep: saves the student (its average where there is one) into a folder.
        arithmetic: the context in which a step runs, forwards and backwards.
        accumulate_steps: batches whose gradients are averaged into one step of the optimiser.
        clip_gradient_norm: largest norm of the whole gradient; None does not clip.
        hold_without_gradient: whether rows of weights without a gradient are left unchanged by the optimiser.
        ema_decay: of the moving average of the student's weights; None without one.
        compile: whether the distiller runs through `torch.compile`.
        checkpoint_every_steps: steps of the optimiser after which a checkpoint is written inside epochs too.
        evaluate_every_epochs: how often the student is measured; the last epoch always is.
        snapshot_epochs: after so many finished epochs the student is kept apart.
        same_rates: whether a checkpoint must hold the rates that `enter` sets again, which nothing else records.
        keep_start: whether a checkpoint is written before the first step too, for networks that nothing else can make
            again.
        labels_are_learned: whether labels are class indices or probabilities, by which training is measured.
    """

    distiller: "Trainee"
    place: Arithmetic
    batches: Batches
    seed: int
    epochs: int
    enter: Callable[[Stretch, int | None], tuple[torch.optim.Optimizer, Rates]]
    measure: Callable[[WeightAverage | None, bool], Mapping[str, Any]]
    keep: Callable[[WeightAverage | None, Path], None]
    arithmetic: Callable[[], AbstractContextManager[Any]]
    accumulate_steps: int = 1
    clip_gradient_norm: float | None = None
    hold_without_gradient: bool = False
    ema_decay: float | None = None
    compile: bool = False
    checkpoint_every_steps: int | None = None
    evaluate_every_epochs: int = 1
    snapshot_epochs: tuple[int, ...] = ()
    same_rates: bool = False
    keep_start: bool = False
    labels_are_learned: bool = True
