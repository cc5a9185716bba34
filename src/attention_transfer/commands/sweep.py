"""`sweep RECIPE --over FIELD=V1,V2`: every combination of values, side by side if wished, one table and one plot."""

import inspect
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from attention_transfer.commands import PROGRAM
from attention_transfer.commands.flags.parsing import parsed_in_part
from attention_transfer.commands.launching.many_runs import (
    FailedRunsError,
    PlannedRun,
    refuse_other_experiment,
    refuse_torchrun,
    refuse_unfit_folder,
    run_all,
)
from attention_transfer.commands.launching.sweep_grid import Cell, Grid, grid
from attention_transfer.commands.train import recipe_of
from attention_transfer.errors import InputError, printable
from attention_transfer.experiment import Experiment
from attention_transfer.runs import recorded_run, write_whole


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


def command(arguments: Sequence[str]) -> None:
    """Run `sweep`."""
    recipe = recipe_of("sweep", arguments)
    if recipe is None:
        print(f"\nbesides the flags of train:\n\n{inspect.cleandoc(Flags.__doc__ or '')}")
        return
    flags, fixed = parsed_in_part(Flags, f"sweep {recipe.recipe}", arguments[1:])
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
        raise InputError("nothing is swept: give --over FIELD=V1,V2,… at least once")
    if flags.processes < 1:
        raise InputError(f"processes must be at least 1, not {flags.processes}")
    refuse_torchrun("a sweep")
    if any(word.replace("_", "-").startswith("--run-folder") for word in fixed):
        raise InputError("each run has a folder of its own: give --folder for all of them instead of --run-folder")
    planned = grid(recipe, fixed, flags.over)
    tiny = "tiny-" if "--tiny" in fixed else ""
    folder = flags.folder or Path("runs", recipe.recipe, f"{tiny}sweep-{'+'.join(planned.fields)}")
    refuse_unfit_folder(folder, "sweep")
    for cell in planned.cells:
        refuse_other_experiment(folder / cell.name, cell.experiment, "sweep")
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
    runs = [PlannedRun(cell.name, ("train", recipe, *cell.arguments), cell.experiment) for cell in cells]
    run_all(runs, folder, processes)


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

    begun = [(cell.values, recorded_run(folder / cell.name)) for cell in planned.cells]
    runs = [(values, run) for values, run in begun if run is not None]
    if not any(run.finished for _, run in runs):
        raise failed or InputError(f"no run of this sweep is finished in {folder}: run it without --only-table first")
    table = tabulate(planned.fields, runs, len(planned.cells))
    markdown = to_markdown(table)
    print(printable(f"\n{markdown}"))
    typed = shlex.join([PROGRAM, *words])
    write_whole(folder / "table.md", f"`{typed}`\n\n{markdown}".encode())
    write_whole(folder / "table.json", table_to_json(table, typed).encode())
    sweep_figure(table, folder / "sweep.png")
    print(f"table: {folder / 'table.md'}   plot: {folder / 'sweep.png'}")
    if failed is not None:
        raise failed
