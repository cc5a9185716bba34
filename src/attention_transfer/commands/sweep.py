"""`sweep RECIPE --over FIELD=V1,V2`: every combination of values, side by side if wished, one table and one plot."""

import inspect
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from attention_transfer.cli import PROGRAM
from attention_transfer.commands.grid import Cell, Grid, grid
from attention_transfer.commands.train import recipe_of
from attention_transfer.experiment import Experiment, from_json, to_json
from attention_transfer.runs import RunFolder, differing_fields, is_run, write_whole

_LOGS = "logs"


@dataclass(frozen=True)
class Flags:
    """Train every combination of some values, each in a run folder of its own; flags of `train RECIPE` hold for all.

    The same command goes on where it stopped: finished runs are left alone, interrupted ones resumed.

    Args:
        over: FIELD=V1,V2,… with any flag of `train RECIPE`: at.weight=0,100,1000, seed=0,1,2, methods=none,at,kd+at.
            Items of one value are joined by +, no value is none. FIELD:FIELD=V1:W1,V2:W2 changes fields together, as
            in methods:task-weight=none:1,at:1,kd+at:0.1. Values of a method count only where it is used.
        processes: runs at a time; more than one share the CPU's cores unless OMP_NUM_THREADS or --threads says else.
        folder: of the run folders, their logs, table.md, table.json and sweep.png; runs/RECIPE/sweep-FIELDS if not
            given.
        only_table: train nothing; table and plot of what is finished.
    """

    over: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    processes: int = 1
    folder: Path | None = None
    only_table: bool = False


class FailedRunsError(RuntimeError):
    """Some runs of a sweep failed; the others are finished."""


def command(arguments: Sequence[str]) -> None:
    """Run `sweep`."""
    recipe = recipe_of("sweep", arguments)
    if recipe is None:
        print(f"\nbesides the flags of train:\n\n{inspect.cleandoc(Flags.__doc__ or '')}")
        return
    flags, fixed = tyro.cli(
        Flags, prog=f"{PROGRAM} sweep {recipe.recipe}", args=list(arguments[1:]), return_unknown_args=True
    )
    planned, folder = plan(recipe, flags, fixed)
    failed: FailedRunsError | None = None
    if not flags.only_table:
        try:
            run(recipe.recipe, planned.cells, folder, flags.processes)
        except FailedRunsError as error:
            failed = error
    report(planned, folder, ["sweep", *arguments], failed)


def plan(recipe: Experiment, flags: Flags, fixed: Sequence[str]) -> tuple[Grid, Path]:
    """The runs of a sweep and its folder, with everything that can be refused before the first run.

    Args:
        recipe: gives every flag its default.
        flags: of the sweep.
        fixed: flags of `train` for all runs.

    Raises:
        ValueError: as `grid` says, for a folder that is taken, and within torchrun.
    """
    if not flags.over:
        raise ValueError("nothing is swept: give --over FIELD=V1,V2,… at least once")
    if flags.processes < 1:
        raise ValueError(f"processes must be at least 1, not {flags.processes}")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("a sweep starts its own processes: run it without torchrun, with --processes N")
    if any(word.replace("_", "-").startswith("--run-folder") for word in fixed):
        raise ValueError("each run has a folder of its own: give --folder for all of them instead of --run-folder")
    planned = grid(recipe, fixed, flags.over)
    tiny = "tiny-" if "--tiny" in fixed else ""
    folder = flags.folder or Path("runs", recipe.recipe, f"{tiny}sweep-{'+'.join(planned.fields)}")
    if is_run(folder) or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder} is {'a run' if is_run(folder) else 'a file'}: give another --folder for the sweep")
    for cell in planned.cells:
        _refuse_other_experiment(folder / cell.name, cell.experiment)
    return planned, folder


def run(recipe: str, cells: Sequence[Cell], folder: Path, processes: int) -> None:
    """Run what is not finished, each cell as a `train` command of its own.

    Args:
        recipe: its name.
        cells: of the sweep.
        folder: of the sweep.
        processes: at a time.

    Raises:
        FailedRunsError: after all have ended, if some failed.
    """
    from attention_transfer.training.processes import Job, run_jobs, threads_for

    finished = [cell for cell in cells if _finished(folder / cell.name)]
    begun = [cell for cell in cells if is_run(folder / cell.name) and cell not in finished]
    todo = [cell for cell in cells if cell not in finished]
    print(f"{folder}: {len(cells)} runs, {len(finished)} finished, {len(begun)} to go on with, {processes} at a time")
    if not todo:
        return
    logs = folder / _LOGS
    logs.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if processes > 1:
        environment.setdefault("OMP_NUM_THREADS", str(threads_for(processes)))
    jobs = [
        Job(
            cell.name,
            # -P: a file in this folder that is called like a module of Python must not be taken for it.
            (sys.executable, "-P", "-m", "attention_transfer.cli", *train_command(recipe, cell, folder)),
            logs / f"{cell.name}.log",
        )
        for cell in todo
    ]
    failures = run_jobs(jobs, processes, environment, lambda line: print(line, flush=True))
    if failures:
        lines = [f"  {each.job.name}: {each.reason} (exit code {each.code}; {each.job.log})" for each in failures]
        raise FailedRunsError("\n".join([f"{len(failures)} of {len(cells)} runs failed:", *lines]))


def train_command(recipe: str, cell: Cell, folder: Path) -> tuple[str, ...]:
    """The arguments of the program that train one cell."""
    return ("train", recipe, *cell.arguments, "--run-folder", str(folder / cell.name))


def report(planned: Grid, folder: Path, words: Sequence[str], failed: FailedRunsError | None = None) -> None:
    """Table and plot of the finished runs, into the folder and the table to standard output.

    Args:
        planned: the sweep.
        folder: its own.
        words: arguments of the program that made the sweep, for the record.
        failed: raised at the end.

    Raises:
        ValueError: if no run is finished and none failed.
    """
    from attention_transfer.report.sweep import tabulate, to_markdown
    from attention_transfer.report.sweep import to_json as table_to_json
    from attention_transfer.report.sweep_plot import sweep_figure

    runs = [(cell.values, RunFolder(folder / cell.name)) for cell in planned.cells if is_run(folder / cell.name)]
    if not any(run.finished for _, run in runs):
        raise failed or ValueError(f"no run of this sweep is finished in {folder}: run it without --only-table first")
    table = tabulate(planned.fields, runs, len(planned.cells))
    markdown = to_markdown(table)
    print(f"\n{markdown}")
    typed = shlex.join([PROGRAM, *words])
    write_whole(folder / "table.md", f"`{typed}`\n\n{markdown}".encode())
    write_whole(folder / "table.json", table_to_json(table, typed).encode())
    sweep_figure(table, folder / "sweep.png")
    print(f"table: {folder / 'table.md'}   plot: {folder / 'sweep.png'}")
    if failed is not None:
        raise failed


def _finished(folder: Path) -> bool:
    return is_run(folder) and RunFolder(folder).finished


def _refuse_other_experiment(folder: Path, experiment: Experiment) -> None:
    """A run that an earlier sweep of other settings left there."""
    if not is_run(folder):
        return
    wanted, recorded = to_json(experiment), RunFolder(folder).experiment
    try:
        # Settings that have come since have their defaults.
        recorded = to_json(from_json(recorded))
    except ValueError as error:
        raise ValueError(f"{folder} holds a run that this version cannot read: {error}") from error
    differing = differing_fields(recorded, wanted)
    if differing:
        listed = "; ".join(f"{field} is {there!r} there, {now!r} now" for field, (there, now) in differing.items())
        raise ValueError(
            f"{folder} holds a run of another sweep: {listed}. Give another --folder, or the same settings"
        )
