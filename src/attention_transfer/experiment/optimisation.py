"""Optimiser and learning-rate schedule."""

import math
from dataclasses import dataclass
from typing import Literal

from attention_transfer.errors import InputError


def require(holds: bool, name: str, wanted: str, value: object) -> None:
    """Refuse a setting.

    Args:
        holds: whether it is as it should be.
        name: of the setting.
        wanted: what it must be, in words.
        value: what it is.

    Raises:
        ValueError: it does not hold.
    """
    if not holds:
        raise InputError(f"{name} must be {wanted}, not {value}")


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and learning-rate schedule.

    Args:
        optimizer: `momentum` is plain SGD with momentum, `nesterov` its variant; any other name is timm's.
        learning_rate: at its peak, for the whole batch as it is; recipes that state a rate for 256 images scale it.
        momentum: of the SGD variants.
        betas: of Adam and its kin: decay of the running mean and of the running square of gradients, each 0 ≤ β < 1;
            None takes the optimiser's own (0.9 and 0.999 for AdamW).
        weight_decay: in units of the optimiser.
        decay_norm_and_bias: whether everything is decayed, as the CIFAR protocols have it; otherwise 1-D parameters are
            left alone, and what the network itself names (position embeddings and class tokens of timm's transformers).
        layer_decay: 0 < d ≤ 1: the learning rate of a layer is d times that of the layer above it, the head having the
            full one. For timm's networks, which know their layers: of transformers the embeddings are the lowest, then
            come the blocks; a norm before pooling goes with the last block, one after it with the head. What methods
            learn beside the student has the full rate. None gives all layers the same.
        schedule: `steps` multiplies by `step_factor` at each of `steps`; `cosine` falls to `min_learning_rate`.
        steps: fractions of the whole training, ascending.
        step_factor: factor of each step.
        warmup_epochs: linear rise from zero.
        cosine_after_warmup: whether the cosine begins where the warm-up ends, as MAE's fine-tuning has it; None (no)
            lets it begin with the first step, hidden at first by the warm-up.
        min_learning_rate: absolute end of the cosine, scaled by `layer_decay` like every other rate.
        hold_without_gradient: whether rows of weights whose gradient is exactly zero in a step are left alone by it;
            None (no) lets weight decay wear them off, as the authors of attention copy did with queries and keys that
            nothing trains.
        clip_gradient_norm: largest norm of the whole gradient; None leaves it alone.
    """

    optimizer: str = "momentum"
    learning_rate: float = 0.05
    momentum: float = 0.9
    betas: tuple[float, float] | None = None
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    layer_decay: float | None = None
    schedule: Literal["steps", "cosine", "constant"] = "steps"
    steps: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    cosine_after_warmup: bool | None = None
    min_learning_rate: float = 0.0
    hold_without_gradient: bool | None = None
    clip_gradient_norm: float | None = None

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < math.inf, "learning_rate", "above 0", self.learning_rate)
        require(0 <= self.momentum < 1, "momentum", "0 ≤ m < 1", self.momentum)
        require(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0", self.weight_decay)
        require(self.warmup_epochs >= 0, "warmup_epochs", "at least 0", self.warmup_epochs)
        ascending = list(self.steps) == sorted(self.steps) and all(0 < step <= 1 for step in self.steps)
        require(ascending, "steps", "fractions of the training between 0 and 1, ascending", self.steps)
        betas = self.betas
        require(betas is None or all(0 <= beta < 1 for beta in betas), "betas", "two numbers 0 ≤ β < 1", betas)
        decay = self.layer_decay
        require(decay is None or 0 < decay <= 1, "layer_decay", "0 < d ≤ 1", decay)
        low, high = self.min_learning_rate, self.learning_rate
        require(0 <= low <= high or self.schedule != "cosine", "min_learning_rate", f"0…{high}, the peak", low)
