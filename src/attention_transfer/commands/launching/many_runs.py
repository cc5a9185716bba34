"""Many `train` commands: what is finished is left alone, what was begun goes on, what fails stops nothing else."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attention_transfer.errors import InputError, printable
from attention_transfer.experiment import Experiment, from_json, to_json
from attention_transfer.files.writing import to_write
from attention_transfer.runs import differing_fields, is_run, make_folder, recorded_run

_LOGS = "logs"


@dataclass(frozen=True)
class PlannedRun:
    """One run of several.

    Args:
        name: of its folder.
        arguments: of the program, `train` first, without the run folder.
        experiment: that they make.
    """

    name: str
    arguments: tuple[str, ...]
    experiment: Experiment


class FailedRunsError(RuntimeError):
    """Some runs failed; the others are finished."""


def finished(folder: Path) -> bool:
    """Whether a run is there that has reached its end."""
    run = recorded_run(folder)
    return run is not None and run.finished


def refuse_torchrun(what: str) -> None:
    """Refuse to start processes inside processes.

    Raises:
        ValueError: within torchrun.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(f"{what} starts its own processes: run it without torchrun, with --processes N")


def refuse_unfit_folder(folder: Path, what: str) -> None:
    """Refuse a place that cannot hold several run folders.

    Raises:
        ValueError: for a run, or a file.
    """
    if is_run(folder) or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is {'a run' if is_run(folder) else 'a file'}: give another --folder for the {what}")


def refuse_other_experiment(folder: Path, experiment: Experiment, what: str) -> None:
    """Refuse a run that other settings left there.

    Args:
        folder: of the run.
        experiment: that is planned there.
        what: the command's work, for the message.

    Raises:
        ValueError: naming what differs.
    """
    to_write(folder.parent, folder.name)
    run = recorded_run(folder)
    if run is None:
        return
    wanted, recorded = to_json(experiment), run.experiment
    try:
        # Settings that have come since have their defaults; what a recipe is called changes nothing that is computed.
        recorded = to_json(replace(from_json(recorded), recipe=experiment.recipe))
    except InputError as error:
        raise InputError(f"{folder} holds a run that this version cannot read: {error}") from error
    differing = differing_fields(recorded, wanted)
    if differing:
        listed = "; ".join(f"{field} is {there!r} there, {now!r} now" for field, (there, now) in differing.items())
        raise InputError(
            f"{folder} holds a run of another {what}: {listed}. Give another --folder, or the same settings"
        )


def run_all(planned: Sequence[PlannedRun], folder: Path, processes: int) -> None:
    """Run what is not finished, each run as a command of its own with a log of its own.

    Args:
        planned: in the order in which they begin.
        folder: that holds the run folders.
        processes: at a time.

    Raises:
        FailedRunsError: after all have ended, if some failed.
    """
    from attention_transfer.commands.launching.processes import Job, run_jobs, threads_for

    done = [run for run in planned if finished(folder / run.name)]
    begun = [run for run in planned if is_run(folder / run.name) and run not in done]
    todo = [run for run in planned if run not in done]
    print(f"{folder}: {len(planned)} runs, {len(done)} finished, {len(begun)} to go on with, {processes} at a time")
    if not todo:
        return
    logs = to_write(folder, _LOGS)
    make_folder(logs)
    environment = dict(os.environ)
    if processes > 1:
        environment.setdefault("OMP_NUM_THREADS", str(threads_for(processes)))
    jobs = [
        Job(
            run.name,
            # -P: a file in this folder that is called like a module of Python must not be taken for it.
            (
                *(sys.executable, "-P", "-m", "attention_transfer.cli"),
                *run.arguments,
                *("--run-folder", str(folder / run.name)),
            ),
            to_write(logs, f"{run.name}.log"),
        )
        for run in todo
    ]
    failures = run_jobs(jobs, processes, environment, lambda line: print(printable(line), flush=True))
    if failures:
        lines = [f"  {each.job.name}: {each.reason} (exit code {each.code}; {each.job.log})" for each in failures]
        raise FailedRunsError("\n".join([f"{len(failures)} of {len(planned)} runs failed:", *lines]))
