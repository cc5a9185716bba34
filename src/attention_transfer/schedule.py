"""How the weight of a method changes over training.

>>> Schedule(warmup_epochs=4).factor(0) < Schedule(warmup_epochs=4).factor(10)
True
"""

from dataclasses import dataclass

from attention_transfer.errors import InputError
from attention_transfer.settings import Settings


@dataclass(frozen=True)
class Schedule(Settings):
    """How a weight changes over training: a factor for every epoch, the product of three parts that default to 1.

    Epochs count from 0, the first one; where training has phases, the first one of each, as with learning rates.

    Args:
        warmup_epochs: the factor rises linearly and reaches 1 in epoch `warmup_epochs - 1`; at least 0.
        decay: pairs (epoch, rate): from that epoch on, the factor is multiplied by `rate` per epoch.
        factors: pairs (epoch, factor): from that epoch on, the factor is this one, until the next pair.

    Raises:
        ValueError: for a negative or infinite number, or epochs that do not ascend.
    """

    warmup_epochs: float = 0.0
    decay: tuple[tuple[int, float], ...] = ()
    factors: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup_epochs < float("inf"):
            raise InputError(f"warmup_epochs must be 0 or more and finite, not {self.warmup_epochs}")
        for name, pairs in (("decay", self.decay), ("factors", self.factors)):
            epochs = [epoch for epoch, _ in pairs]
            fine = all(epoch >= 0 and 0 <= value < float("inf") for epoch, value in pairs)
            if not fine or sorted(set(epochs)) != epochs:
                raise InputError(
                    f"{name} must be pairs (epoch, value), none negative or infinite, epochs ascending, not {pairs}"
                )

    @property
    def constant(self) -> bool:
        """Whether every epoch has the factor 1."""
        return self == Schedule()

    def factor(self, epoch: int) -> float:
        """The factor of one epoch, counted from 0."""
        factor = min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
        ends = [start for start, _ in self.decay[1:]] + [epoch]
        for (start, rate), end in zip(self.decay, ends, strict=False):
            factor *= rate ** max(0, min(epoch, end) - start)
        reached = [value for start, value in self.factors if start <= epoch]
        return factor * (reached[-1] if reached else 1.0)

    def stretched(self, share: float) -> "Schedule":
        """The same course over a training scaled by a factor."""
        decay = {round(share * epoch): rate ** (1 / share) for epoch, rate in self.decay}
        factors = {round(share * epoch): factor for epoch, factor in self.factors}
        return Schedule(share * self.warmup_epochs, tuple(decay.items()), tuple(factors.items()))
