"""The one training loop."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from math import ceil
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attention_transfer.batch import Batch
from attention_transfer.distiller import Output
from attention_transfer.errors import InputError
from attention_transfer.phases import Stretch, said, stretches
from attention_transfer.runs import RunFolder
from attention_transfer.training.averaging import WeightAverage
from attention_transfer.training.checkpointing import Checkpoints, Progress
from attention_transfer.training.distributed import Process, wrap
from attention_transfer.training.metrics import RunningMeans, check_scores
from attention_transfer.training.plan import Plan, Position, Rates
from attention_transfer.training.progress import Reporter
from attention_transfer.training.update import Update, peak_learning_rate, seed_step

# A share of the initial weights in their average that is worth a word.
_REMEMBERED = 0.01


class Loop:
    """State of one training: where it is, and what moves.

    Args:
        plan: what is trained, on what, how.
        process: this one.
        reporter: shows progress.
        run: folder of the run, open for writing in the process that writes; None keeps nothing.
    """

    def __init__(self, plan: Plan, process: Process, reporter: Reporter, run: RunFolder | None) -> None:
        self.plan, self.process, self.reporter, self.run_folder = plan, process, reporter, run
        self.distiller = plan.distiller
        self.stretches = stretches(self.distiller.phases, plan.epochs)
        self.epochs = self.distiller.num_epochs(plan.epochs)
        decay = plan.ema_decay
        self.average = None if decay is None else WeightAverage(self.distiller.student, decay)
        self.update = Update(plan, self.average)
        self.progress = Progress()
        self.means = RunningMeans()
        self.started, self.earlier_seconds = time.perf_counter(), 0.0
        self.checkpoints = None if run is None else Checkpoints(run, plan, process, self.epochs)
        self.optimizer_state: Mapping[str, Any] | None = None
        self.rates: Rates
        self.module: nn.Module

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Metrics of the finished epochs."""
        return self.progress.rows

    @property
    def total_seconds(self) -> float:
        """Since the training began, without the time between its starts."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def resume(self) -> None:
        """Go to where the last checkpoint was written, or to the start."""
        found = None if self.checkpoints is None else self.checkpoints.load(self.update, self.average)
        if found is None:
            self._say_what_the_average_keeps()
            self._keep_snapshot()
            return
        state, notes = found
        for note in notes:
            self.reporter.line(f"note: {note}")
        self.progress = state.progress
        self.means.load(state.means, self.plan.place.device)
        self.earlier_seconds, self.optimizer_state = state.total_seconds, state.optimizer
        place = f", step {self.progress.first_batch}" if self.progress.first_batch else ""
        assert self.run_folder is not None
        self.reporter.line(f"resuming {self.run_folder.path} at epoch {self.progress.epoch + 1}{place}")

    def train(self) -> None:
        """Train to the end."""
        if len(self.stretches) > 1:
            self.reporter.line(said(self.distiller.phases, self.plan.epochs))
        for stretch in self.stretches:
            if self.progress.epoch >= stretch.end:
                continue
            self._enter(stretch)
            while self.progress.epoch < stretch.end:
                self._train_epoch(stretch)

    # ------------------------------------------------------------------ phases and epochs

    def _enter(self, stretch: Stretch) -> None:
        now, plan = self.progress, self.plan
        self.distiller.set_epoch(now.epoch, plan.epochs)
        batches = plan.batches.num_batches
        steps = None if batches is None else ceil(batches / plan.accumulate_steps)
        self.update.optimizer, self.rates = plan.enter(stretch, steps)
        state, self.optimizer_state = self.optimizer_state, None
        if now.updates == 0:
            self._begin(state)
        # A checkpoint of the end of a phase holds that one's optimiser.
        elif state is None or (now.epoch, now.first_batch) <= (stretch.first, 0):
            now.phase_updates = 0
        else:
            assert self.checkpoints is not None
            last = now.phase_updates - 1
            inside = now.first_batch // plan.accumulate_steps
            epoch = now.epoch - stretch.first - (0 if inside else 1)
            self.rates(Position(epoch, inside - 1 if inside else (steps or 1) - 1, last))
            self.checkpoints.load_optimizer(self.update.optimizer, state)
        self.module = wrap(self.distiller, self.process)
        if plan.compile:
            self.module.compile()

    def _begin(self, state: Mapping[str, Any] | None) -> None:
        """Keep the start, or go back to it: a call that was stopped early has left other weights and momentum."""
        if self.checkpoints is None or not self.plan.keep_start:
            return
        if state is None:
            self._checkpoint(0, 0)
        else:
            self.checkpoints.load_optimizer(self.update.optimizer, state)

    def _train_epoch(self, stretch: Stretch) -> None:
        started, plan, now = time.perf_counter(), self.plan, self.progress
        before, together = now.seconds, plan.accumulate_steps
        self.distiller.set_epoch(now.epoch, plan.epochs)
        self.distiller.train()
        count = plan.batches.num_batches
        title = f"epoch {now.epoch + 1}/{self.epochs}"
        batches = plan.batches.epoch(now.epoch, start=now.first_batch)
        shown = self.reporter.steps(batches, count, now.first_batch, title)
        first, i = now.first_batch // together, now.first_batch
        for number, group in enumerate(_groups(shown, together), start=first):
            self.rates(Position(now.epoch - stretch.first, number, now.phase_updates))
            _check_length(now.epoch, i + len(group), count, ended=False)
            self._step(i, group)
            i += len(group)
            now.updates, now.phase_updates = now.updates + 1, now.phase_updates + 1
            every = plan.checkpoint_every_steps
            if every and (number + 1) % every == 0 and (count is None or i < count):
                now.seconds = before + time.perf_counter() - started
                self._checkpoint(now.epoch, i)
        _check_length(now.epoch, i, count, ended=True)
        self.update.check_weights(now.epoch, self.distiller)
        now.seconds = before + time.perf_counter() - started
        row = self._row()
        now.epoch, now.first_batch, self.means = now.epoch + 1, 0, RunningMeans()
        # The checkpoint last: a run killed in between repeats the epoch, and drops row and snapshot on resuming.
        self.rows.append(row)
        if self.process.writes and self.run_folder is not None:
            self.run_folder.append_metrics(row)
        self._keep_snapshot()
        self._checkpoint(now.epoch, 0)
        self.reporter.epoch(row, self.epochs)

    def _step(self, first: int, group: Sequence[Batch]) -> None:
        """One step of the optimiser out of some batches of an epoch, `first` being the number of the first of them."""
        plan, epoch = self.plan, self.progress.epoch
        self.update.begin()
        outs: list[Output] = []
        for i, batch in enumerate(group, start=first):
            seed_step(plan.seed, epoch, i, self.process.rank)
            with plan.arithmetic(), self._communication(last=len(outs) + 1 == len(group)):
                with plan.place.autocast():
                    out: Output = self.module(batch.image, batch.label, batch.index)
                self.update.backward(out, 1 / len(group))
            self.means.add(out, batch.label if plan.labels_are_learned else None, len(batch.image))
            outs.append(out)
        self.update.step(epoch, first + len(group) - 1, outs)
        self.progress.samples += sum(len(batch.image) for batch in group)

    def _communication(self, *, last: bool) -> AbstractContextManager[Any]:
        """Several processes need not average the gradients of each batch of a step."""
        return nullcontext() if last or not isinstance(self.module, DistributedDataParallel) else self.module.no_sync()

    def _row(self) -> dict[str, Any]:
        epoch = self.progress.epoch
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "step": self.progress.updates,
            "learning_rate": peak_learning_rate(self.update.optimizer),
            "phase": self.distiller.phase.name,
            **self.means.row(self.process),
        }
        due = (epoch + 1) % self.plan.evaluate_every_epochs == 0 or epoch + 1 == self.epochs
        # What has not run has not changed.
        if due and self.process.writes and self.distiller.phase.runs_student:
            measured = self.plan.measure(self.average, False)
            check_scores(epoch, measured)
            row |= measured
        self.process.wait()
        row["seconds"] = self.progress.seconds
        return row

    # ------------------------------------------------------------------ what lasts

    def _checkpoint(self, epoch: int, first_batch: int) -> None:
        self.update.guard.read()
        now = self.progress
        now.epoch, now.first_batch = epoch, first_batch
        if not first_batch:
            now.seconds = 0.0
        if self.checkpoints is not None:
            self.checkpoints.write(now, self.means.state(), self.total_seconds, self.update, self.average)
        self.process.wait()

    def _keep_snapshot(self) -> None:
        """Keep the student as it is now, if the plan asks for it."""
        epoch = self.progress.epoch
        if self.process.writes and self.run_folder is not None and epoch in self.plan.snapshot_epochs:
            with self.run_folder.new_snapshot(epoch) as folder:
                self.plan.keep(self.average, folder)

    def _say_what_the_average_keeps(self) -> None:
        batches = self.plan.batches.num_batches
        if self.average is None or batches is None:
            return
        epochs = sum(stretch.length for stretch in self.stretches if stretch.phase.runs_student)
        steps = epochs * ceil(batches / self.plan.accumulate_steps)
        share = self.average.decay**steps
        if share > _REMEMBERED:
            self.reporter.line(
                f"note: after {steps} steps the average with ema_decay {self.plan.ema_decay} still "
                f"consists of the initial student to {share:.0%}: lower it for so short a training"
            )


def _check_length(epoch: int, found: int, said: int | None, *, ended: bool) -> None:
    """Refuse an epoch of another length than was said, by which schedules and averages go.

    Raises:
        InputError: it has more batches, or, once it has ended, fewer.
    """
    if said is not None and (found > said or (ended and found < said)):
        came = f"{found} batches" if ended else f"more than {said} batches"
        raise InputError(
            f"the loader gave {came} in epoch {epoch + 1}, and its length (len(), num_batches or steps_per_epoch) says "
            f"{said}, by which schedules go: let the length count batches, or give the number that every epoch has as "
            "steps_per_epoch"
        )


def _groups(batches: Iterable[Batch], count: int) -> Iterator[list[Batch]]:
    """So many batches at a time, the last ones being fewer; none is asked for before those before it are used."""
    left = iter(batches)
    while group := list(islice(left, count)):
        yield group
