"""Optimiser and learning-rate schedule."""

import math
from dataclasses import dataclass
from typing import Literal

from attention_transfer.experiment.requirement import require


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and learning-rate schedule.

    Args:
        optimizer: `momentum` is plain SGD with momentum, `nesterov` its variant; any other name is timm's.
        learning_rate: at its peak.
        momentum: of the SGD variants.
        weight_decay: in units of the optimiser.
        decay_norm_and_bias: whether 1-D parameters are decayed too, as the CIFAR protocols have it.
        schedule: `steps` multiplies by `step_factor` at each of `steps`; `cosine` falls to `min_learning_rate`.
        steps: fractions of the whole training, ascending.
        step_factor: factor of each step.
        warmup_epochs: linear rise from zero.
        min_learning_rate: absolute end of the cosine.
        clip_gradient_norm: largest norm of the whole gradient; None leaves it alone.
    """

    optimizer: str = "momentum"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    schedule: Literal["steps", "cosine", "constant"] = "steps"
    steps: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    min_learning_rate: float = 0.0
    clip_gradient_norm: float | None = None

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < math.inf, "learning_rate", "above 0", self.learning_rate)
        require(0 <= self.momentum < 1, "momentum", "0 ≤ m < 1", self.momentum)
        require(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0", self.weight_decay)
        require(self.warmup_epochs >= 0, "warmup_epochs", "at least 0", self.warmup_epochs)
        ascending = list(self.steps) == sorted(self.steps) and all(0 < step <= 1 for step in self.steps)
        require(ascending, "steps", "fractions of the training between 0 and 1, ascending", self.steps)
