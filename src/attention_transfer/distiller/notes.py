"""Sentences about a distillation that can run and is most likely not what was meant, each said once.

>>> import warnings
>>> from attention_transfer.errors import DistillationWarning
>>> notes = Notes()
>>> with warnings.catch_warnings(record=True) as caught:
...     warnings.simplefilter("always")
...     notes.say(["The student is larger than its teacher."])
...     notes.say(["The student is larger than its teacher."])
>>> len(caught), notes.said
(1, ['The student is larger than its teacher.'])
"""

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from torch import Tensor

from attention_transfer.errors import DistillationWarning

EVALUATION = (
    "the student learns in evaluation mode: its batch norms keep their statistics and its dropout is off; call "
    "distiller.train() before the steps of each epoch."
)


@contextmanager
def unwarned() -> Generator[None]:
    """Distillers are built inside without warnings; whoever does so shows their notes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DistillationWarning)
        yield


class Notes:
    """Sentences about one distillation. Each is kept, and warned of once."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentences: Sequence[str], stacklevel: int = 2) -> None:
        """Keep what was not said before, and warn of all of it together.

        Args:
            sentences: each whole.
            stacklevel: whose line is shown with it, as of `warnings.warn`.
        """
        new = [sentence for sentence in sentences if sentence not in self.said]
        self.said += new
        if new:
            warnings.warn(" ".join(new), DistillationWarning, stacklevel=stacklevel + 1)

    def learning_in_evaluation(self, gradient: Tensor) -> None:
        """Called with the gradient of a step whose student was in evaluation mode."""
        del gradient
        self.say([EVALUATION])
