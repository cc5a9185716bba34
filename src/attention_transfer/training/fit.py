"""`fit`: the training loop for your own networks and loaders.

>>> from attention_transfer import Distiller, build, fit
>>> images, labels = torch.rand(16, 3, 16, 16), torch.arange(16) % 4
>>> distiller = Distiller(build("resnet8", 4), example=images[:2])
>>> fitted = fit(distiller, [(images, labels)], epochs=2, reporter=Reporter(silent=True))
>>> type(fitted) is Fitted, [row["epoch"] for row in fitted.rows], fitted.folder
(True, [1, 2], None)
"""

import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from attention_transfer.distiller import Distiller
from attention_transfer.errors import InputError
from attention_transfer.memory_budget import ChecksMemory
from attention_transfer.runs import RunFolder, is_run
from attention_transfer.training.device import Arithmetic, Precision, environment, given_back, refuse_precision
from attention_transfer.training.distributed import Process, joined
from attention_transfer.training.loop import Loop
from attention_transfer.training.own_evaluation import Evaluate, Measuring
from attention_transfer.training.own_optimisation import Factor, MakeOptimizer, OwnOptimisation
from attention_transfer.training.own_record import keep_bare, recorded
from attention_transfer.training.plan import Plan
from attention_transfer.training.positioning import LoadedBatches, refuse_shared
from attention_transfer.training.progress import Reporter


@dataclass(frozen=True, eq=False)
class Fitted:
    """What came of a training.

    Args:
        rows: metrics of each epoch, as in metrics.jsonl.
        summary: of the whole, as in summary.json.
        folder: of the run; None where nothing was written.
        averaged: the moving average of the student's weights, by name; None without one. The student itself has the
            weights that the last step left.
        notes: what was not promised, in sentences.
    """

    rows: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]
    folder: Path | None = None
    averaged: Mapping[str, Tensor] | None = None
    notes: tuple[str, ...] = ()


def fit(
    distiller: Distiller,
    train_loader: object,
    *,
    epochs: int,
    optimizer: Optimizer | MakeOptimizer | None = None,
    schedule: LRScheduler | Factor | Literal["cosine", "constant"] | None = None,
    schedule_every: Literal["epoch", "step"] = "epoch",
    evaluate: Evaluate | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    accumulate_steps: int = 1,
    clip_gradient_norm: float | None = None,
    ema_decay: float | None = None,
    snapshot_epochs: Sequence[int] = (),
    checkpoint_every_steps: int | None = None,
    evaluate_every_epochs: int = 1,
    steps_per_epoch: int | None = None,
    reporter: Reporter | None = None,
) -> Fitted:
    """Train a distiller on any loader, into a run folder if one is given; the same call goes on where it was stopped.

        optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
        fitted = fit(distiller, loader, epochs=30, optimizer=optimizer, schedule="cosine", evaluate=tests, folder="run")
        print(fitted.rows[-1]["test"]["top1"])

    docs/training.md says which loaders are gone on with to the same bits.

    Args:
        distiller: built, on its device; methods with phases add their epochs.
        train_loader: of batches (images, labels) or (images, labels, index); iterable in every epoch.
        epochs: of the main phase, at least 1.
        optimizer: of `trainable_parameters()`, or a function from parameters to one, called in each phase with those
            that move (a phase's own rate and decay replace the function's). None is AdamW at 1e-3, `cosine`.
        schedule: `cosine`, `constant` (None), share 0…1 of the steps → factor of the rate, or a scheduler of torch.
        schedule_every: what a scheduler of torch counts.
        evaluate: a loader (`test`), loaders by name, or a function of the network that gives numbers by name.
        folder: of the run; new, or one of the same call. None writes nothing.
        seed: of all that is random in a step, and of the loader's generators.
        precision: of the networks; losses are float32. Under `float16` the loss is scaled.
        accumulate_steps: batches whose gradients are averaged into one step; steps count these.
        clip_gradient_norm: largest norm of the whole gradient, above 0.
        ema_decay: 0 < d < 1, of an average of the student's weights, which is then what is measured and saved.
        snapshot_epochs: after so many finished epochs (0: before the first) the student is kept apart.
        checkpoint_every_steps: write checkpoints inside epochs too.
        evaluate_every_epochs: the last epoch is always measured.
        steps_per_epoch: batches after which an epoch ends; needed by iterators.
        reporter: where progress is shown; standard output if None.

    Raises:
        InputError: for what does not fit, before the first step; a folder of other settings, naming them.
        NonFiniteLossError: if a loss stops being finite; the weights of the last checkpoint remain.
    """
    numbers = (epochs, seed, precision, accumulate_steps, clip_gradient_norm, ema_decay, tuple(snapshot_epochs))
    settings = _Settings(*numbers, checkpoint_every_steps, evaluate_every_epochs, steps_per_epoch)
    place = Arithmetic(_check(distiller, settings, folder), precision)
    optimisation = OwnOptimisation(distiller, optimizer, schedule, schedule_every)
    return _fit(settings, place, optimisation, train_loader, evaluate, folder, reporter)


def _fit(
    settings: "_Settings",
    place: Arithmetic,
    optimisation: OwnOptimisation,
    train_loader: object,
    evaluate: Evaluate | None,
    folder: str | Path | None,
    reporter: Reporter | None,
) -> Fitted:
    distiller, seed, device = optimisation.distiller, settings.seed, place.device
    with given_back(), _generators_given_back(device), joined(device.type) as process:
        refuse_shared(train_loader, process.world_size)
        length = settings.steps_per_epoch
        batches = LoadedBatches(train_loader, seed=seed, rank=process.rank, device=device, steps_per_epoch=length)
        _check_first(distiller, batches, process, place)
        measuring = Measuring(distiller, evaluate, place, seed)
        record = settings.recorded(distiller, batches, optimisation, optimisation.check(settings.epochs))
        plan = settings.plan(distiller, place, batches, optimisation, measuring)
        reporter = reporter or Reporter(silent=not process.writes)
        path = None if folder is None else Path(folder)
        with _rates_given_back(optimisation), _opened(path, record, process) as run:
            return _run(Loop(plan, process, reporter, run), batches, path)


@dataclass(frozen=True)
class _Settings:
    """The numbers of a call."""

    epochs: int
    seed: int
    precision: Precision
    accumulate_steps: int
    clip_gradient_norm: float | None
    ema_decay: float | None
    snapshot_epochs: tuple[int, ...]
    checkpoint_every_steps: int | None
    evaluate_every_epochs: int
    steps_per_epoch: int | None

    def check(self) -> None:
        for name in ("epochs", "accumulate_steps", "evaluate_every_epochs"):
            _whole(name, getattr(self, name), 1)
        for name in ("checkpoint_every_steps", "steps_per_epoch"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), 1)
        _whole("seed", self.seed, -(2**63))
        for epoch in self.snapshot_epochs:
            _whole("snapshot_epochs", epoch, 0)
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise InputError(f"precision must be float32, bfloat16 or float16, not {self.precision!r}")
        clip, decay = self.clip_gradient_norm, self.ema_decay
        if clip is not None and not (_is_real(clip) and isfinite(clip) and clip > 0):
            raise InputError(f"clip_gradient_norm must be a number above 0, or None to clip nothing, not {clip!r}")
        if decay is not None and not (_is_real(decay) and 0 < decay < 1):
            raise InputError(f"ema_decay must be a number 0 < d < 1, or None for no average, not {decay!r}")

    def recorded(
        self, distiller: Distiller, batches: LoadedBatches, optimisation: OwnOptimisation, optimizer: Optimizer
    ) -> dict[str, Any]:
        names = ("epochs", "precision", "accumulate_steps", "ema_decay", "steps_per_epoch", "evaluate_every_epochs")
        return recorded(
            distiller,
            seed=self.seed,
            batches=batches.num_batches,
            optimisation=optimisation.described(optimizer) | {"clip_gradient_norm": self.clip_gradient_norm},
            training={name: getattr(self, name) for name in names},
        )

    def plan(
        self,
        distiller: Distiller,
        place: Arithmetic,
        batches: LoadedBatches,
        optimisation: OwnOptimisation,
        measuring: Measuring,
    ) -> Plan:
        return Plan(
            distiller,
            place,
            batches,
            self.seed,
            self.epochs,
            optimisation.enter,
            measuring,
            lambda average, folder: keep_bare(distiller, average, folder),
            nullcontext,
            accumulate_steps=self.accumulate_steps,
            clip_gradient_norm=self.clip_gradient_norm,
            ema_decay=self.ema_decay,
            checkpoint_every_steps=self.checkpoint_every_steps,
            evaluate_every_epochs=self.evaluate_every_epochs,
            snapshot_epochs=self.snapshot_epochs,
            same_rates=True,
            keep_start=True,
            labels_are_learned=distiller.task_weight > 0,
        )


def _check(distiller: object, settings: _Settings, folder: object) -> torch.device:
    """Refuse what no training can be made of; the device that it runs on."""
    if not isinstance(distiller, Distiller):
        inner = getattr(distiller, "module", None)
        way = (
            "give the distiller itself, which fit() wraps for several processes"
            if isinstance(inner, Distiller)
            else "build one, Distiller(student, teacher, methods, example=images); compile it by distiller.compile()"
        )
        raise InputError(f"fit() trains a Distiller, not {type(distiller).__name__}: {way}")
    settings.check()
    total = distiller.num_epochs(settings.epochs)
    if any(epoch > total for epoch in settings.snapshot_epochs):
        raise InputError(f"snapshot_epochs must be within the {total} epochs of the training")
    if folder is not None and not isinstance(folder, (str, Path)):
        raise InputError(f"folder must be a path, or None to write nothing, not {folder!r}")
    if folder is None and (settings.snapshot_epochs or settings.checkpoint_every_steps):
        raise InputError("snapshot_epochs and checkpoint_every_steps write files: give folder=, or leave them out")
    halved = [name for name, p in distiller.named_parameters() if p.dtype == torch.float16]
    if halved and settings.precision == "float16":
        raise InputError(
            f"precision float16 wants weights in float32, and {halved[0]!r} is in float16: leave out student.half()"
        )
    device = next(distiller.student.parameters()).device
    refuse_precision(settings.precision, device)
    return device


def _check_first(distiller: Distiller, batches: LoadedBatches, process: Process, place: Arithmetic) -> None:
    """Refuse a first batch that a step could not learn from."""
    first = batches.first()
    distiller.check_batch(first.image, first.label, first.index)
    count = len(first.image) * process.world_size
    for method, reads in zip(distiller.methods, distiller.reads, strict=True):
        if count < reads.batch.minimum:
            raise InputError(
                f"{method.key} compares the images of a batch with each other, and of {count} there is nothing to "
                f"compare: give batches of at least {-(-reads.batch.minimum // process.world_size)}"
            )
    for part in distiller.parts.values():
        if isinstance(part, ChecksMemory):
            part.check_memory(len(first.image), place.device)


@contextmanager
def _opened(path: Path | None, record: Mapping[str, Any], process: Process) -> Generator[RunFolder | None]:
    """The run folder, open for writing in the process that writes."""
    if path is None:
        yield None
        return
    run = RunFolder.create_or_resume(path, record) if process.writes else None
    process.wait()
    with run or RunFolder(path) as opened:
        yield opened


def _run(loop: Loop, batches: LoadedBatches, path: Path | None) -> Fitted:
    run, process = loop.run_folder, loop.process
    finished = run.summary if run is not None and path is not None and is_run(path) and run.finished else None
    if finished is not None and run is not None and not any(run.checkpoints.glob("*")):
        raise InputError(
            f"{path} is finished, and its checkpoints are gone: read student.safetensors in it, or choose another "
            "folder"
        )
    notes = batches.notes if run is not None and finished is None else ()
    if isinstance(loop.distiller, Distiller) and loop.distiller.replaces:
        notes += ("the student computes with what its teacher gives, and is saved without it: keep the teacher too",)
    for note in notes:
        loop.reporter.line(f"note: {note}")
    loop.resume()
    averaged = None if loop.average is None else loop.average.state()
    if finished is not None:
        loop.reporter.line(f"{path} is finished already: nothing to do")
        return Fitted(tuple(loop.rows), finished, path, averaged)
    if run is not None and process.writes:
        run.write_environment(environment(loop.plan.place))
    loop.train()
    summary = _summary(loop)
    if run is not None and process.writes:
        loop.plan.keep(loop.average, run.path)
        run.write_summary(summary)
        loop.reporter.line(f"finished {run.path}")
    process.wait()
    return Fitted(tuple(loop.rows), summary, path, None if loop.average is None else loop.average.state(), notes)


def _summary(loop: Loop) -> dict[str, Any]:
    distiller, process = cast(Distiller, loop.distiller), loop.process
    last = loop.rows[-1] if loop.rows else {}
    measured = dict(loop.plan.measure(loop.average, True)) if process.writes and last else {}
    unaveraged = measured.pop("unaveraged", None)
    teacher = distiller.teacher
    seen = process.total(torch.tensor(loop.progress.samples, device=loop.plan.place.device))
    return {
        "epochs": loop.epochs,
        "steps": loop.progress.updates,
        "samples_seen": int(seen),
        "wall_seconds": sum(row["seconds"] for row in loop.rows),
        "total_seconds": loop.total_seconds,
        "student": measured,
        **({} if unaveraged is None else {"student_unaveraged": unaveraged}),
        "teacher": None,
        "student_parameters": _size(distiller.student),
        "teacher_parameters": None if teacher is None else _size(teacher),
    }


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def _generators_given_back(device: torch.device) -> Generator[None]:
    """The global random generators are afterwards as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _rates_given_back(optimisation: OwnOptimisation) -> Generator[None]:
    """An optimiser whose rates were scaled has afterwards those that it came with, so that the same call goes on."""
    optimizer, schedule = optimisation.optimizer, optimisation.schedule
    rates = [group["lr"] for group in optimizer.param_groups] if isinstance(optimizer, Optimizer) else []
    rates = [rate.clone() if isinstance(rate, Tensor) else rate for rate in rates]
    try:
        yield
    finally:
        if isinstance(optimizer, Optimizer) and not isinstance(schedule, LRScheduler):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
