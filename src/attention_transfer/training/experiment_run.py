"""Training of an experiment: from names to networks and data, and from these to a run folder."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attention_transfer.data import Loader
from attention_transfer.distiller import Distiller
from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment, from_json, to_json
from attention_transfer.phases import Stretch
from attention_transfer.pretraining import MaskedAutoencoder
from attention_transfer.runs import RunFolder, is_run, recorded_run
from attention_transfer.runs.folder import refuse_other_experiment
from attention_transfer.training.averaging import WeightAverage
from attention_transfer.training.cache import remember_teacher
from attention_transfer.training.device import environment, given_back
from attention_transfer.training.distributed import Process, joined
from attention_transfer.training.evaluate import evaluate
from attention_transfer.training.knn import measure_neighbours
from attention_transfer.training.loop import Loop
from attention_transfer.training.optim import make_optimizer, make_scheduler
from attention_transfer.training.plan import Plan, Rates
from attention_transfer.training.prepare import Prepared, check_networks, evenly, prepare
from attention_transfer.training.prepare_pretraining import prepare_pretraining
from attention_transfer.training.progress import Reporter, called
from attention_transfer.training.saving import keep
from attention_transfer.training.teacher_check import check_teacher

# Loss on training images, of student and teacher, is measured on at most so many: as many as a usual test split has.
MEASURED_TRAIN_IMAGES = 10_000
EVALUATION_BATCH = 256


def fit_experiment(
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
            _train(experiment, prepared, writable, process, reporter)


def _as_recorded(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """The experiment as JSON.

    As an existing run wrote it, if it means the same: settings added since have defaults, and what a recipe is called
    changes nothing that is computed.
    """
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


def _train(experiment: Experiment, prepared: Prepared, run: RunFolder, process: Process, reporter: Reporter) -> None:
    measuring = _Measuring(prepared)
    plan = _planned(experiment, prepared, measuring, run)
    loop = Loop(plan, process, reporter, run)
    loop.resume()
    if process.writes:
        cached = {"teacher_cache": True} if prepared.teacher_cached else {}
        check = check_teacher(prepared)
        for line in () if check is None else check.lines():
            reporter.line(line)
        known = cached | ({} if check is None else {"teacher": check.row()})
        run.write_environment(environment(prepared.place) | known | {"command": ["attention-transfer", *sys.argv[1:]]})
    loop.train()
    if process.writes:
        _finish(loop, prepared, measuring, run)


def _planned(experiment: Experiment, prepared: Prepared, measuring: "_Measuring", run: RunFolder) -> Plan:
    """What the loop needs, of an experiment."""
    training, settings = experiment.training, experiment.optimisation

    def enter(stretch: Stretch, steps: int | None) -> tuple[torch.optim.Optimizer, Rates]:
        phase, optimisation = stretch.phase, settings
        if phase.learning_rate is not None:
            optimisation = replace(
                optimisation, learning_rate=phase.learning_rate, schedule="constant", warmup_epochs=0
            )
        if phase.weight_decay is not None:
            optimisation = replace(optimisation, weight_decay=phase.weight_decay)
        optimizer = make_optimizer(prepared.distiller.trained_modules(), optimisation)
        assert steps is not None
        scheduler = make_scheduler(optimizer, optimisation, stretch.length * steps, steps)
        return optimizer, lambda position: scheduler.step_update(position.updates)

    return Plan(
        prepared.distiller,
        prepared.place,
        prepared.train,
        experiment.seed,
        training.epochs,
        enter,
        measuring.student,
        lambda average, folder: keep(experiment, prepared, average, run.path, folder),
        prepared.arithmetic,
        training.accumulate_steps or 1,
        settings.clip_gradient_norm,
        bool(settings.hold_without_gradient),
        training.ema_decay,
        training.compile,
        training.checkpoint_every_steps,
        training.evaluate_every_epochs,
        training.snapshot_epochs or (),
    )


class _Measuring:
    """Networks on the splits of a data set."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.distiller = prepared, prepared.distiller

    @cached_property
    def _loaders(self) -> dict[str, Loader]:
        """Loaders of what networks are measured on; kept, so that an accelerator receives each split once."""
        splits = self.prepared.dataset.splits
        splits["train"] = evenly(splits["train"], MEASURED_TRAIN_IMAGES)
        return {name: self.prepared.evaluation(split, EVALUATION_BATCH) for name, split in splits.items()}

    def network(self, network: nn.Module, *, teacher: bool, train: bool) -> dict[str, Any]:
        """Its scores by split, those of training images only where they are asked for."""
        if isinstance(self.distiller, MaskedAutoencoder):
            return measure_neighbours(self.prepared, self.distiller.student)
        images = self.distiller.teacher_images if teacher else None
        return {
            name: evaluate(network, loader, self.prepared.place, images).of(self.prepared.dataset, name).row()
            for name, loader in self._loaders.items()
            if train or name != "train"
        }

    def student(self, average: WeightAverage | None, last: bool) -> Mapping[str, Any]:
        """As the student will be kept; where that is an average, under `unaveraged` also as it was trained."""
        deployed = self.distiller.deployed
        trained = self.network(deployed, teacher=False, train=last)
        if average is None:
            return trained
        with average.in_place():
            return self.network(deployed, teacher=False, train=last) | {"unaveraged": trained}


def _finish(loop: Loop, prepared: Prepared, measuring: _Measuring, run: RunFolder) -> None:
    """Measure, write the student, and say that the run has ended."""
    student, teacher = loop.distiller.student, prepared.teacher
    dataset = prepared.dataset
    fits = teacher is not None and teacher.num_classes == dataset.num_classes
    measured = dict(measuring.student(loop.average, True))
    unaveraged = measured.pop("unaveraged", None)
    summary = {
        "epochs": loop.epochs,
        "steps": loop.progress.updates,
        "samples_seen": loop.epochs * len(dataset.train),
        "wall_seconds": sum(row["seconds"] for row in run.read_metrics()),
        "total_seconds": loop.total_seconds,
        "student": measured,
        **({} if unaveraged is None else {"student_unaveraged": unaveraged}),
        "teacher": measuring.network(teacher.module, teacher=True, train=True)
        if teacher is not None and fits
        else None,
        "student_parameters": sum(p.numel() for p in student.parameters()),
        "teacher_parameters": sum(p.numel() for p in teacher.module.parameters()) if teacher is not None else None,
    }
    # Whoever loads the student needs no hooks.
    loop.distiller.detach()
    loop.plan.keep(loop.average, run.path)
    run.write_summary(summary)
    scored = ", ".join(
        f"{called(name, measured[name])} top-1 {measured[name]['top1']:.2f} %"
        for name in ("test", "unseen", "neighbours")
        if measured.get(name)
    )
    loop.reporter.line(f"finished {run.path}" + (f": {scored}" if scored else ""))
