"""How long a run trains, how large its steps are, and on what."""

from dataclasses import dataclass
from typing import Literal

from attention_transfer.experiment.optimisation import require

_MOST_THREADS = 1024  # far more than help, and the operating system still grants them


@dataclass(frozen=True)
class Training:
    """How long, how large, on what.

    Args:
        epochs: passes over the training images.
        batch_size: images per step and process.
        device: `auto` takes an accelerator if there is one.
        precision: arithmetic of the networks; losses are always float32. Under float16 the loss is scaled, and a step
            whose gradient is too large for it is left out.
        channels_last: memory format of networks and images; None means yes where the student or its teacher is a
            network of convolutions.
        compile: run the distiller through `torch.compile`.
        threads: CPU threads; None leaves torch's choice.
        checkpoint_every_steps: write a checkpoint inside epochs too; None only at their ends.
        evaluate_every_epochs: how often the student is measured; the last epoch always is.
        ema_decay: d, 0 < d < 1, of a moving average of the student's weights: after each step a ← d·a + (1 − d)·w,
            beginning with the student as it starts. Of n steps it looks back on some 1 / (1 − d): 0.9999 is for
            trainings of 100,000 and more. The average is then what is measured, kept and saved as the student;
            metrics show the student as it was trained beside it. None leaves that as the only one.
        snapshot_epochs: after so many finished epochs (0: before training) the student is also kept apart, under
            snapshots/epoch-N of the run folder, which opens as a model; ascending. None keeps only the last.
        accumulate_steps: batches whose gradients are averaged into one step of the optimiser (the last step of an
            epoch may have fewer); steps are counted and checkpoints written by these. None (1) steps after each batch.
    """

    epochs: int = 240
    batch_size: int = 64
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool | None = None
    compile: bool = False
    threads: int | None = None
    checkpoint_every_steps: int | None = None
    evaluate_every_epochs: int = 1
    ema_decay: float | None = None
    snapshot_epochs: tuple[int, ...] | None = None
    accumulate_steps: int | None = None

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.batch_size >= 2, "batch_size", "at least 2 (batch norm needs them)", self.batch_size)
        require(self.evaluate_every_epochs >= 1, "evaluate_every_epochs", "at least 1", self.evaluate_every_epochs)
        every = self.checkpoint_every_steps
        require(every is None or every >= 1, "checkpoint_every_steps", "at least 1", every)
        wanted = f"between 1 and {_MOST_THREADS}, at best the number of cores"
        require(self.threads is None or 1 <= self.threads <= _MOST_THREADS, "threads", wanted, self.threads)
        decay = self.ema_decay
        require(decay is None or 0 < decay < 1, "ema_decay", "0 < d < 1", decay)
        together = self.accumulate_steps
        require(together is None or together >= 1, "accumulate_steps", "at least 1", together)
        snapshots = self.snapshot_epochs or ()
        ascending = list(snapshots) == sorted(set(snapshots)) and all(epoch >= 0 for epoch in snapshots)
        require(ascending, "snapshot_epochs", "numbers of finished epochs, at least 0 and ascending", snapshots)
