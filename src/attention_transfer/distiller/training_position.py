"""Where a training stands: its epoch, the phase that it is in, and who says so.

>>> position = TrainingPosition((Phase("hint", epochs=2), Phase("task")))
>>> position.entered, position.set_epoch(2, None), position.phase.name, position.epoch_of_phase
(False, True, 'task', 0)
"""

from collections.abc import Sequence

from attention_transfer.errors import InputError
from attention_transfer.phases import Phase, stretch_of


class TrainingPosition:
    """The epoch and the phase of a training.

    Args:
        phases: of the training, in order.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        self._phases = tuple(phases)
        # Before any phase was entered, everything counts, as in evaluation.
        self.phase = self._phases[0] if len(self._phases) == 1 else Phase("all")
        self.entered = len(self._phases) == 1
        self._by_hand = False
        self.epoch = self._first = 0

    @property
    def epoch_of_phase(self) -> int:
        """Epochs since the phase began."""
        return max(0, self.epoch - self._first)

    def set_epoch(self, epoch: int, epochs: int | None) -> bool:
        """Go to an epoch of the whole training, and enter its phase unless phases are entered by hand.

        Args:
            epoch: counted from 0.
            epochs: of the main phase; needed only where a phase comes after it.

        Returns:
            Whether the phase is another.

        Raises:
            InputError: for an epoch outside of the training.
        """
        stretch = stretch_of(self._phases, epoch, epochs)
        self.epoch = int(epoch)
        if self._by_hand:
            return False
        self.entered = True
        before, now = (self.phase, self._first), (stretch.phase, stretch.first)
        self.phase, self._first = now
        return before != now

    def set_phase(self, phase: Phase, first_epoch: int) -> None:
        """Enter a phase by hand; from then on `set_epoch` enters none.

        Args:
            phase: to enter.
            first_epoch: epoch in which it begins.
        """
        self.entered = self._by_hand = True
        self.epoch = max(self.epoch, first_epoch)
        self.phase, self._first = phase, first_epoch

    def check_entered(self) -> None:
        """Refuse to train before a phase was entered, where there are several.

        Raises:
            InputError: says what to call.
        """
        if not self.entered:
            raise InputError(
                f"the training has {len(self._phases)} phases, {' and '.join(phase.name for phase in self._phases)}, "
                "and none was entered: call distiller.set_epoch(epoch) before the steps of each epoch"
            )
