"""Training section of an experiment: epochs, batch size, device, precision and checkpoints.

>>> Training(epochs=30, batch_size=128, precision="bfloat16", ema_decay=0.999).snapshot_epochs is None
True
>>> Training(batch_size=1)
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: batch_size must be at least 2 (batch norm needs them), not 1
"""

from dataclasses import dataclass
from typing import Literal

from attention_transfer.settings import require

_MOST_THREADS = 1024  # far more than help, and the operating system still grants them


@dataclass(frozen=True)
class Training:
    """Epochs, batch size, device, precision and checkpoints.

    Args:
        epochs: epochs, that is passes over the training images.
        batch_size: images per batch and process.
        device: device to train on; `auto` takes an accelerator if there is one.
        precision: precision of the networks' forward and backward passes (autocast); losses are always float32. With
            float16 the loss is scaled, and a step whose gradient overflows is skipped.
        channels_last: whether networks and images are in the channels-last memory format; None means yes if the student
            or the teacher is a convolutional network.
        compile: whether the distiller runs through `torch.compile`.
        threads: CPU threads of torch; None keeps torch's choice.
        checkpoint_every_steps: write a checkpoint every N steps too; None writes one at the end of each epoch.
        evaluate_every_epochs: evaluate the student every N epochs, and always after the last.
        ema_decay: decay d, 0 < d < 1, of an exponential moving average (EMA) of the student's weights: after each step
            a ← d·a + (1 − d)·w, starting from the initial weights. It averages over some 1 / (1 − d) steps: 0.9999 is
            for trainings of 100,000 steps and more. The average is then evaluated and saved as the student; metrics
            show the student without it as well. None averages nothing.
        snapshot_epochs: numbers of finished epochs (0: before training), ascending, after which the student is also
            saved under snapshots/epoch-N of the run folder, which opens as a model. None saves only the last.
        accumulate_steps: gradient accumulation: batches whose gradients are averaged into one step of the optimiser
            (the last step of an epoch may have fewer); steps and checkpoints count these. None (1) steps after each
            batch.
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
