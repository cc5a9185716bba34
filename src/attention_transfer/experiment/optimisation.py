"""Optimiser and learning-rate schedule of an experiment.

>>> Optimisation("adamw", learning_rate=5e-4, weight_decay=0.05, schedule="cosine", warmup_epochs=5).schedule
'cosine'
>>> Optimisation(learning_rate=-1.0)
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: learning_rate must be above 0, not -1.0
"""

import math
from dataclasses import dataclass
from typing import Literal

from attention_transfer.settings import require


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and learning-rate schedule.

    Args:
        optimizer: `momentum` is SGD with momentum, `nesterov` its variant; any other name is an optimiser of timm.
        learning_rate: peak learning rate, for the batch size as it is: recipes that state it for 256 images scale it.
        momentum: momentum of SGD.
        betas: β₁ and β₂ of Adam and its variants, each 0 ≤ β < 1; None takes the optimiser's own (0.9 and 0.999 for
            AdamW).
        weight_decay: weight decay, as the optimiser defines it.
        decay_norm_and_bias: whether weight decay applies to all parameters, as in the CIFAR protocols; if not, 1-D
            parameters are exempt, and what the network itself names (position embeddings and class tokens of timm's
            transformers).
        layer_decay: layer-wise learning-rate decay, 0 < d ≤ 1: a layer's learning rate is d times that of the layer
            above it, and the head has the full one. For networks of timm, which know their layers: of transformers the
            embeddings are the lowest, then come the blocks; a norm before pooling goes with the last block, one after
            it with the head. Modules that methods train beside the student have the full rate. None gives all layers
            the same.
        schedule: learning-rate schedule: `steps` multiplies by `step_factor` at each of `steps`; `cosine` falls to
            `min_learning_rate`; `constant` never decays.
        steps: when the learning rate drops, as ascending fractions of the whole training.
        step_factor: factor that the learning rate is multiplied by at each of `steps`.
        warmup_epochs: epochs of linear warm-up from zero.
        cosine_after_warmup: whether the cosine begins where the warm-up ends, as in MAE's fine-tuning; None (no) lets
            it begin with the first step, beneath the warm-up.
        min_learning_rate: final learning rate of the cosine, scaled by `layer_decay` as every other rate.
        hold_without_gradient: whether a step leaves rows of weights unchanged whose gradient is exactly zero; None (no)
            lets weight decay shrink them, as the authors of attention copy did with queries and keys that nothing
            trains.
        clip_gradient_norm: largest norm that the whole gradient is clipped to; None does not clip.
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
