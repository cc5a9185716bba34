"""Phases of training: which parameters move in each, which terms are minimised, and which epochs belong to it.

>>> phases = [Phase("hints", epochs=5), Phase("all")]
>>> num_epochs(phases, 100), stretch_of(phases, 5).phase.name
(105, 'all')
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal

from attention_transfer.errors import InputError


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Args:
        name: shown in metrics.
        trains: which parameters move.
        terms: names of the terms that are minimised; None means all, the task's included.
        without: names of terms that are left out nonetheless. What a method learns is frozen where no term that counts
            reaches it.
        epochs: its length; None means what remains of the training.
        learning_rate: of this phase, constant; None keeps that of the experiment with its schedule.
        weight_decay: of this phase; None keeps that of the experiment.
        runs_student: whether the student runs at all; without it, terms see an empty student.
        title: what it learns, for messages; its name if empty.
    """

    name: str
    trains: Literal["student", "parts", "both"] = "both"
    terms: tuple[str, ...] | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    without: tuple[str, ...] = ()
    weight_decay: float | None = None
    runs_student: bool = True
    title: str = ""

    def counts(self, term: str) -> bool:
        """Whether a term is minimised in this phase."""
        return (self.terms is None or term in self.terms) and term not in self.without


@dataclass(frozen=True)
class Stretch:
    """A phase with its epochs, counted from 0 over the whole training.

    Args:
        phase: that lasts so long.
        first: its first epoch.
        end: the epoch after its last.
    """

    phase: Phase
    first: int
    end: int

    @property
    def length(self) -> int:
        """In epochs."""
        return self.end - self.first


def stretches(phases: Sequence[Phase], epochs: int) -> tuple[Stretch, ...]:
    """Phases with their epochs.

    Args:
        phases: in order.
        epochs: of the main phase, the one that has no length of its own.

    Raises:
        ValueError: if more than one phase has no length.
    """
    if sum(phase.epochs is None for phase in phases) > 1:
        raise InputError("only one phase can take the epochs of the experiment; give the others a length")
    first, found = 0, list[Stretch]()
    for phase in phases:
        end = first + (epochs if phase.epochs is None else phase.epochs)
        found.append(Stretch(phase, first, end))
        first = end
    return tuple(found)


def num_epochs(phases: Sequence[Phase], epochs: int) -> int:
    """Epochs of all phases together.

    Args:
        phases: in order.
        epochs: of the main phase, the one that has no length of its own.

    Raises:
        ValueError: for a number of epochs below 1.
    """
    if _whole(epochs, "epochs") < 1:
        raise InputError(f"epochs must be at least 1, not {epochs}")
    return sum(index(epochs) if phase.epochs is None else phase.epochs for phase in phases)


def stretch_of(phases: Sequence[Phase], epoch: int, epochs: int | None = None) -> Stretch:
    """The phase that an epoch belongs to.

    Args:
        phases: in order.
        epoch: counted from 0 over the whole training.
        epochs: of the main phase; without them it has no end, which only a phase after it would have to know.

    Raises:
        ValueError: for an epoch before the first or after the last one, or where only `epochs` could tell.
    """
    if _whole(epoch, "epoch") < 0:
        raise InputError(f"epoch must be at least 0, the first one, not {epoch}")
    ending = next((i for i, phase in enumerate(phases) if phase.epochs is None), len(phases))
    known = stretches(phases, index(epoch) + 1 if epochs is None else _whole(epochs, "epochs"))
    found = next((i for i, stretch in enumerate(known) if epoch < stretch.end), None)
    if found is None:
        raise InputError(
            f"epoch {epoch} comes after the training, whose phases have {known[-1].end} epochs together, counted from 0"
        )
    if epochs is None and found >= ending and ending + 1 < len(phases):
        raise InputError(
            f"the phase {phases[ending].name!r} has no length of its own, and others follow it: say how many epochs it "
            "has, set_epoch(epoch, epochs=...)"
        )
    return known[found]


def said(phases: Sequence[Phase], epochs: int) -> str:
    """How long each phase is, as in «40 epochs of graph heads, then 1».

    Args:
        phases: in order.
        epochs: of the main phase, the one that has no length of its own.
    """
    parts: list[str] = []
    for i, phase in enumerate(phases):
        count = epochs if phase.epochs is None else phase.epochs
        parts.append(f"{count} epoch{'' if count == 1 else 's'}" if i == 0 or phase.epochs else str(count))
        if phase.epochs is not None:
            parts[-1] += f" of {phase.title or phase.name}"
    return ", then ".join(parts)


def _whole(number: int, name: str) -> int:
    """A whole number of any kind (NumPy's too) as Python's."""
    if not isinstance(number, bool):
        try:
            return index(number)
        except TypeError:
            pass
    raise InputError(f"{name} must be a whole number, not {number!r}")
