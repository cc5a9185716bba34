"""Checkpoints of a training: saving its state and resuming from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any, cast

import torch

from attention_transfer.phases import stretches
from attention_transfer.runs import RunFolder
from attention_transfer.training.averaging import WeightAverage
from attention_transfer.training.checkpoint_checks import CheckpointError, Expected, check_checkpoint, load_optimizer
from attention_transfer.training.checkpoint_files import PICKLED, Found, read_latest, write_checkpoint
from attention_transfer.training.distributed import Process
from attention_transfer.training.plan import Plan
from attention_transfer.training.update import Update


@dataclass
class Progress:
    """Where a training is.

    Args:
        epoch: current epoch, counted from 0.
        first_batch: first batch of the epoch that has not been trained on yet.
        updates: steps of the optimiser so far.
        phase_updates: steps of the optimiser in the current phase.
        samples: samples seen by this process, repetitions included.
        seconds: seconds that the epoch has taken so far.
        rows: metrics of the finished epochs.
    """

    epoch: int = 0
    first_batch: int = 0
    updates: int = 0
    phase_updates: int = 0
    samples: int = 0
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Resumed:
    """State that a training resumes with, beside the weights, which are loaded already.

    Args:
        progress: where it is.
        means: of the epoch that it is in, in this process.
        total_seconds: that it has taken.
        optimizer: its state dict.
    """

    progress: Progress
    means: Mapping[str, Any]
    total_seconds: float
    optimizer: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of a run.

    Args:
        run: its folder.
        plan: what is trained.
        process: this one; the first writes, and all read.
        epochs: of the whole training.
    """

    def __init__(self, run: RunFolder, plan: Plan, process: Process, epochs: int) -> None:
        self._run, self._plan, self._process, self._epochs = run, plan, process, epochs
        self._last = self._read = run.checkpoints

    def write(
        self,
        progress: Progress,
        means: Mapping[str, Any],
        total_seconds: float,
        update: Update,
        average: WeightAverage | None,
    ) -> None:
        """Keep everything that the training needs to go on; called by all processes."""
        # Sums and counts of their own; all else is equal in all processes.
        gathered = self._process.gathered(_on_the_host(means))
        if not self._process.writes:
            return
        state = {
            **asdict(progress),
            "total_seconds": total_seconds,
            "world_size": self._process.world_size,
            "means": gathered,
            "distiller": self._plan.distiller.state_dict(),
            "optimizer": update.optimizer.state_dict(),
            "scaler": None if update.scaler is None else update.scaler.state_dict(),
            "average": None if average is None else average.state(),
        }
        self._last = write_checkpoint(self._run.checkpoints, state, keep=self._last)

    def load(self, update: Update, average: WeightAverage | None) -> tuple[Resumed, tuple[str, ...]] | None:
        """Bring weights, averages and scale to where the last checkpoint has them; None where there is none.

        Raises:
            CheckpointError: it is damaged, or none of this run.
        """
        found = read_latest(self._run.checkpoints)
        if found is None:
            if self._process.writes:
                self._run.truncate(0)
            return None
        state, batches = found.state, self._plan.batches.num_batches
        if found.path.name == PICKLED:
            state = self._upgraded(state)
        distiller = self._plan.distiller
        expected = Expected(
            self._epochs,
            batches,
            distiller.state_dict(),
            None if average is None else average.state(),
            self._process.world_size,
            None if update.scaler is None else update.scaler.state_dict(),
        )
        check_checkpoint(state, expected, found.path)
        distiller.load_state_dict(state["distiller"])
        if average is not None:
            average.load(state["average"])
        if update.scaler is not None:
            update.scaler.load_state_dict(state["scaler"])
        self._last = self._read = found.path
        if self._process.writes:
            self._run.truncate(state["epoch"], state["rows"])
        self._process.wait()
        rows = self._run.read_metrics()
        progress = Progress(
            **{name: state[name] for name in Progress.__dataclass_fields__ if name != "rows"}, rows=rows
        )
        means = state["means"][self._process.rank]
        return Resumed(progress, means, state["total_seconds"], state["optimizer"]), found.notes

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Go on with an optimiser, whose rates are those of the last step.

        Raises:
            CheckpointError: it is that of another one.
        """
        rates = [group["lr"] for group in optimizer.param_groups]
        load_optimizer(optimizer, state, self._read)
        kept = [group["lr"] for group in optimizer.param_groups]
        if self._plan.same_rates and rates != kept:
            raise CheckpointError(
                f"the checkpoint {self._read} was written at learning rates of {kept}, where this optimiser and "
                f"schedule have {rates}: give those that the run began with, or delete it to start this run anew"
            )

    def _upgraded(self, state: dict[str, Any]) -> dict[str, Any]:
        """What an older version kept, and what it did not."""
        batches, together = self._plan.batches.num_batches, self._plan.accumulate_steps
        epoch, first = state.get("epoch"), state.get("first_batch")
        if not isinstance(epoch, int) or not isinstance(first, int) or batches is None:
            return state
        spans = stretches(self._plan.distiller.phases, self._plan.epochs)
        began = max((span.first for span in spans if span.first <= epoch), default=0)
        steps, inside = ceil(batches / together), first // together
        more = {
            "updates": epoch * steps + inside,
            "phase_updates": (epoch - began) * steps + inside,
            "samples": 0,
            "world_size": self._process.world_size,
            "scaler": None,
            "rows": list[Any](),
        }
        return {**more, **state, **({"means": [state["means"]] * self._process.world_size} if "means" in state else {})}


def read_weights(run: RunFolder) -> Mapping[str, Any]:
    """The state of the distiller in the last checkpoint of a run.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    found: Found | None = read_latest(run.checkpoints)
    if found is None or not isinstance(found.state.get("distiller"), dict):
        raise CheckpointError(f"{run.path} has no checkpoint")
    return cast("Mapping[str, Any]", found.state["distiller"])


def _on_the_host(means: Mapping[str, Any]) -> dict[str, Any]:
    return {**means, "sums": {name: value.cpu() for name, value in means["sums"].items()}}
