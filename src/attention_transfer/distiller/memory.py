"""What a teacher gave before, in place of running it again."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from attention_transfer.capture import Reading


class TeacherMemory(Protocol):
    """Knows what the teacher of a distiller gave for the images of a training step, or keeps it."""

    def read(self, epoch: int, index: Tensor, run: Callable[[], Reading]) -> Reading:
        """What the teacher gives.

        Args:
            epoch: counted from 0.
            index: places of the images in their data set, shape (batch,).
            run: runs it.
        """
        ...
