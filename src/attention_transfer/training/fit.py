"""The one training loop."""

import hashlib
import random
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.scheduler.scheduler import Scheduler
from torch import nn

from attention_transfer.data import Loader
from attention_transfer.distiller import Distiller, Output
from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment, from_json, to_json
from attention_transfer.phases import Stretch, said, stretches
from attention_transfer.pretraining import MaskedAutoencoder
from attention_transfer.runs import RunFolder, is_run, recorded_run, whole_file
from attention_transfer.runs.folder import refuse_other_experiment
from attention_transfer.training.averaging import WeightAverage
from attention_transfer.training.cache import remember_teacher
from attention_transfer.training.checkpoint import Expected, check_checkpoint, load_optimizer, read_checkpoint
from attention_transfer.training.device import environment, given_back
from attention_transfer.training.distributed import Process, joined, wrap
from attention_transfer.training.evaluate import evaluate
from attention_transfer.training.holding import held_without_gradient
from attention_transfer.training.knn import measure_neighbours
from attention_transfer.training.metrics import FiniteGuard, RunningMeans, check_scores
from attention_transfer.training.optim import make_optimizer, make_scheduler, peak_learning_rate
from attention_transfer.training.prepare import Prepared, check_networks, evenly, prepare
from attention_transfer.training.prepare_pretraining import prepare_pretraining
from attention_transfer.training.progress import Reporter, called
from attention_transfer.training.saving import keep
from attention_transfer.training.teacher_check import check_teacher

# Loss on training images, of student and teacher, is measured on at most so many: as many as a usual test split has.
MEASURED_TRAIN_IMAGES = 10_000
EVALUATION_BATCH = 256
# A share of the initial weights in their average that is worth a word.
_REMEMBERED = 0.01


def fit(
    experiment: Experiment, folder: Path, reporter: Reporter | None = None, *, teacher_cache: Path | None = None
) -> None:
    """Train as the experiment says, into a run folder; go on where an interrupted run of the same experiment stopped.

    Torch's threads and its flushing of denormals are those of the experiment meanwhile, and given back afterwards.

    Nothing is written before both networks, the data and the methods have proved to fit. A finished run is left alone.

    Args:
        experiment: what to train.
        folder: the run folder; new, or one of the same experiment.
        reporter: where progress is shown; standard output if None.
        teacher_cache: folder where what the teacher gives is kept for runs that show it the same images, see
            `attention_transfer.training.cache`; None runs it in every step.

    Raises:
        ValueError: for anything that does not fit (before training), or a folder of another run.
        NonFiniteLossError: if a loss stops being finite; the weights of the last checkpoint remain.
    """
    with given_back(), joined(experiment.training.device) as process:
        reporter = reporter or Reporter(silent=not process.writes)
        wanted = _as_recorded(experiment, folder)
        recorded = recorded_run(folder)
        if recorded is not None and recorded.experiment != wanted:
            # A slip in a name looks like another experiment.
            check_networks(experiment)
        if recorded is not None and recorded.finished:
            if process.writes:
                # Refused here if it is another experiment's.
                refuse_other_experiment(folder, recorded.experiment, wanted)
                if is_run(folder):
                    RunFolder.create_or_resume(folder, wanted).close()
            reporter.line(f"{folder} is finished already: nothing to do")
            return
        # A folder that is a run already is checked (and locked) before anything is loaded, a new one made after.
        run = RunFolder.create_or_resume(folder, wanted) if process.writes and is_run(folder) else None
        prepared = (prepare if experiment.pretraining is None else prepare_pretraining)(experiment, process)
        if teacher_cache is not None:
            prepared = remember_teacher(teacher_cache, experiment, prepared, process.world_size)
        if process.writes and run is None:
            run = RunFolder.create_or_resume(folder, wanted)
        process.wait()
        with run or RunFolder(folder) as writable:
            for note in prepared.notes:
                reporter.line(f"note: {note}")
            distiller = prepared.distiller
            if experiment.training.compile and isinstance(distiller, Distiller) and not distiller.reads_teacher_logits:
                reporter.line(
                    "note: compiled, the teacher cannot stop after its last layer read; what is unread is dropped"
                )
            _Loop(experiment, prepared, writable, process, reporter).run()


def _as_recorded(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """The experiment as JSON; as an existing run wrote it, if it means the same: settings added since have defaults,
    and what a recipe is called changes nothing that is computed."""
    wanted = to_json(experiment)
    run = recorded_run(folder)
    if run is None:
        return wanted
    recorded = run.experiment
    try:
        meant = to_json(replace(from_json(recorded, str(folder)), recipe=experiment.recipe))
        return recorded if meant == wanted else wanted
    except InputError:
        return wanted


class _Loop:
    """State of one training: where it is, and what moves."""

    def __init__(
        self, experiment: Experiment, prepared: Prepared, run: RunFolder, process: Process, reporter: Reporter
    ) -> None:
        self.experiment, self.prepared, self.run_folder = experiment, prepared, run
        self.process, self.reporter = process, reporter
        self.distiller = prepared.distiller
        self.stretches = stretches(self.distiller.phases, experiment.training.epochs)
        self.epochs = self.distiller.num_epochs(experiment.training.epochs)
        self.guard = FiniteGuard(prepared.place.device)
        self.epoch, self.first_batch, self.seconds = 0, 0, 0.0
        self.started, self.earlier_seconds = time.perf_counter(), 0.0
        self.means = RunningMeans()
        decay = experiment.training.ema_decay
        self.average = None if decay is None else WeightAverage(self.distiller.student, decay)
        self.optimizer: torch.optim.Optimizer
        self.scheduler: Scheduler
        self.module: nn.Module

    def run(self) -> None:
        """Train to the end and write the student."""
        state = self._resume()
        if state is None:
            self._say_what_the_average_keeps()
            self._keep_snapshot()
        if self.process.writes:
            cached = {"teacher_cache": True} if self.prepared.teacher_cached else {}
            check = check_teacher(self.prepared)
            for line in () if check is None else check.lines():
                self.reporter.line(line)
            known = cached | ({} if check is None else {"teacher": check.row()})
            self.run_folder.write_environment(
                environment(self.prepared.place) | known | {"command": ["attention-transfer", *sys.argv[1:]]}
            )
        if len(self.stretches) > 1:
            self.reporter.line(said(self.distiller.phases, self.experiment.training.epochs))
        for stretch in self.stretches:
            if self.epoch >= stretch.end:
                continue
            self._enter(stretch)
            # A checkpoint of the end of a phase holds that one's optimiser.
            if state is not None and (self.epoch, self.first_batch) > (stretch.first, 0):
                load_optimizer(self.optimizer, state["optimizer"], self.run_folder.checkpoint)
            state = None
            while self.epoch < stretch.end:
                self._train_epoch(stretch.first)
        self._finish()

    # ------------------------------------------------------------------ phases and epochs

    def _enter(self, stretch: Stretch) -> None:
        self.distiller.set_epoch(self.epoch, self.experiment.training.epochs)
        phase, optimisation = stretch.phase, self.experiment.optimisation
        if phase.learning_rate is not None:
            optimisation = replace(
                optimisation, learning_rate=phase.learning_rate, schedule="constant", warmup_epochs=0
            )
        if phase.weight_decay is not None:
            optimisation = replace(optimisation, weight_decay=phase.weight_decay)
        self.optimizer = make_optimizer(self.distiller.trained_modules(), optimisation)
        steps = self.prepared.train.num_batches
        self.scheduler = make_scheduler(self.optimizer, optimisation, stretch.length * steps, steps)
        self.module = wrap(self.distiller, self.process)
        if self.experiment.training.compile:
            self.module.compile()

    def _train_epoch(self, phase_start: int) -> None:
        started, settings = time.perf_counter(), self.experiment.training
        before = self.seconds
        self.distiller.set_epoch(self.epoch, settings.epochs)
        self.distiller.train()
        train = self.prepared.train
        batches = train.epoch(self.epoch, start=self.first_batch)
        title = f"epoch {self.epoch + 1}/{self.epochs}"
        for i, batch in enumerate(
            self.reporter.steps(batches, train.num_batches, self.first_batch, title), start=self.first_batch
        ):
            self.scheduler.step_update((self.epoch - phase_start) * train.num_batches + i)
            _seed_step(self.experiment.seed, self.epoch, i, self.process.rank)
            with self.prepared.arithmetic():
                with self.prepared.place.autocast():
                    out: Output = self.module(batch.image, batch.label, batch.index)
                self._update(out, i)
            self.means.add(out, batch.label)
            every = settings.checkpoint_every_steps
            if every and (i + 1) % every == 0 and i + 1 < train.num_batches:
                self.seconds = before + time.perf_counter() - started
                self._checkpoint(self.epoch, i + 1)
        self.guard.read()
        self.guard.check_weights(self.epoch, self.distiller)
        self.seconds = before + time.perf_counter() - started
        row = self._row()
        self.epoch, self.first_batch, self.means = self.epoch + 1, 0, RunningMeans()
        # The checkpoint last: a run killed in between repeats the epoch, and drops row and snapshot on resuming.
        if self.process.writes:
            self.run_folder.append_metrics(row)
        self._keep_snapshot()
        self._checkpoint(self.epoch, 0)
        self.reporter.epoch(row, self.epochs)

    def _update(self, out: Output, step: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.distiller.backward(out)
        gradients = [p.grad for p in self.distiller.trainable_parameters() if p.grad is not None]
        self.guard.check(self.epoch, step, out, gradients)
        optimisation = self.experiment.optimisation
        clip = optimisation.clip_gradient_norm
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.distiller.trainable_parameters(), clip)
        moving = self.distiller.trainable_parameters()
        with held_without_gradient(moving) if optimisation.hold_without_gradient else nullcontext():
            self.optimizer.step()
        if self.average is not None:
            self.average.update()

    def _row(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": (self.epoch + 1) * self.prepared.train.num_batches,
            "learning_rate": peak_learning_rate(self.optimizer),
            "phase": self.distiller.phase.name,
            **self.means.row(self.process),
        }
        due = (self.epoch + 1) % self.experiment.training.evaluate_every_epochs == 0 or self.epoch + 1 == self.epochs
        # What has not run has not changed.
        if due and self.process.writes and self.distiller.phase.runs_student:
            measured = self._measure_student(train=False)
            check_scores(self.epoch, measured)
            row |= measured
        self.process.wait()
        row["seconds"] = self.seconds
        return row

    @cached_property
    def _measured(self) -> dict[str, Loader]:
        """Loaders of what networks are measured on; kept, so that an accelerator receives each split once."""
        splits = self.prepared.dataset.splits
        splits["train"] = evenly(splits["train"], MEASURED_TRAIN_IMAGES)
        return {name: self.prepared.evaluation(split, EVALUATION_BATCH) for name, split in splits.items()}

    def _measure(self, network: nn.Module, *, teacher: bool, train: bool) -> dict[str, Any]:
        if isinstance(self.distiller, MaskedAutoencoder):
            return measure_neighbours(self.prepared, self.distiller.student)
        images = self.distiller.teacher_images if teacher else None
        return {
            name: evaluate(network, loader, self.prepared.place, images).of(self.prepared.dataset, name).row()
            for name, loader in self._measured.items()
            if train or name != "train"
        }

    def _measure_student(self, *, train: bool) -> dict[str, Any]:
        """As the student will be kept; where that is an average, under `unaveraged` also as it was trained."""
        deployed = self.distiller.deployed
        trained = self._measure(deployed, teacher=False, train=train)
        if self.average is None:
            return trained
        with self.average.in_place():
            return self._measure(deployed, teacher=False, train=train) | {"unaveraged": trained}

    # ------------------------------------------------------------------ what lasts

    def _checkpoint(self, epoch: int, first_batch: int) -> None:
        self.guard.read()
        if self.process.writes:
            state = {
                "epoch": epoch,
                "first_batch": first_batch,
                "means": self.means.state(),
                "seconds": self.seconds if first_batch else 0.0,
                "total_seconds": self._total_seconds(),
                "distiller": self.distiller.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.state(),
            }
            with whole_file(self.run_folder.checkpoint) as path:
                torch.save(state, path)
        if not first_batch:
            self.seconds = 0.0
        self.process.wait()

    def _keep_snapshot(self) -> None:
        """Keep the student as it is now, if the experiment asks for it."""
        if self.process.writes and self.epoch in (self.experiment.training.snapshot_epochs or ()):
            with self.run_folder.new_snapshot(self.epoch) as folder:
                self._keep(folder)

    def _keep(self, folder: Path) -> None:
        keep(self.experiment, self.prepared, self.average, self.run_folder.path, folder)

    def _say_what_the_average_keeps(self) -> None:
        epochs = sum(stretch.length for stretch in self.stretches if stretch.phase.runs_student)
        steps = epochs * self.prepared.train.num_batches
        share = 0.0 if self.average is None else self.average.decay**steps
        if share > _REMEMBERED:
            self.reporter.line(
                f"note: after {steps} steps the average with ema_decay {self.experiment.training.ema_decay} still "
                f"consists of the initial student to {share:.0%}: lower it for so short a training"
            )

    def _total_seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started

    def _resume(self) -> Mapping[str, Any] | None:
        path = self.run_folder.checkpoint
        if not path.exists():
            if self.process.writes:
                self.run_folder.truncate(0)
            return None
        state = read_checkpoint(path, self.prepared.place.device)
        average = None if self.average is None else self.average.state()
        batches = self.prepared.train.num_batches
        check_checkpoint(state, Expected(self.epochs, batches, self.distiller.state_dict(), average), path)
        self.epoch, self.first_batch, self.seconds = state["epoch"], state["first_batch"], state["seconds"]
        self.earlier_seconds = state["total_seconds"]
        self.distiller.load_state_dict(state["distiller"])
        if self.average is not None:
            self.average.load(state["average"])
        self.means.load(state["means"], self.prepared.place.device)
        if self.process.writes:
            self.run_folder.truncate(self.epoch)
        place = f", step {self.first_batch}" if self.first_batch else ""
        self.reporter.line(f"resuming {self.run_folder.path} at epoch {self.epoch + 1}{place}")
        return state

    def _finish(self) -> None:
        if not self.process.writes:
            return
        student, teacher = self.distiller.student, self.prepared.teacher
        dataset = self.prepared.dataset
        fits = teacher is not None and teacher.num_classes == dataset.num_classes
        measured = self._measure_student(train=True)
        unaveraged = measured.pop("unaveraged", None)
        summary = {
            "epochs": self.epochs,
            "steps": self.epochs * self.prepared.train.num_batches,
            "samples_seen": self.epochs * len(dataset.train),
            "wall_seconds": sum(row["seconds"] for row in self.run_folder.read_metrics()),
            "total_seconds": self._total_seconds(),
            "student": measured,
            **({} if unaveraged is None else {"student_unaveraged": unaveraged}),
            "teacher": self._measure(teacher.module, teacher=True, train=True)
            if teacher is not None and fits
            else None,
            "student_parameters": sum(p.numel() for p in student.parameters()),
            "teacher_parameters": sum(p.numel() for p in teacher.module.parameters()) if teacher is not None else None,
        }
        # Whoever loads the student needs no hooks.
        self.distiller.detach()
        self._keep(self.run_folder.path)
        self.run_folder.write_summary(summary)
        scored = ", ".join(
            f"{called(name, measured[name])} top-1 {measured[name]['top1']:.2f} %"
            for name in ("test", "unseen", "neighbours")
            if measured.get(name)
        )
        self.reporter.line(f"finished {self.run_folder.path}" + (f": {scored}" if scored else ""))


def _seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Every generator that a library may use inside a network starts each step from where it is, not from the past."""
    digest = hashlib.blake2b(f"{seed} {epoch} {step} {rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little", signed=True))
    random.seed(digest)
    np.random.seed(int.from_bytes(digest[:4], "little"))
