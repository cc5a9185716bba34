"""`reproduce TABLE`: every run of a table, several at a time if wished, beside the numbers that were published."""

import inspect
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_transfer.commands import PROGRAM
from attention_transfer.commands.flags.parsing import parsed_in_part
from attention_transfer.commands.launching.many_runs import (
    FailedRunsError,
    PlannedRun,
    finished,
    refuse_other_experiment,
    refuse_torchrun,
    refuse_unfit_folder,
    run_all,
)
from attention_transfer.commands.launching.table_plan import PlannedCell, Wanted, changes, own_images, plan_cells
from attention_transfer.errors import InputError, printable
from attention_transfer.files.json_fields import Fields
from attention_transfer.files.untrusted import read_object
from attention_transfer.recipes.tables import TABLES, Table
from attention_transfer.runs import recorded_run, write_whole

if TYPE_CHECKING:
    from attention_transfer.report.reproduction import Reproduction

_COSTS = "cost.json"
# What the table shows of a cell's cost, and what says whether it must be measured again.
_MEASURED = ("time_ratio", "extra_parameters", "extra_bytes", "rounds")


@dataclass(frozen=True)
class Flags:
    """Run a table, in part or whole, and put it beside the published one; flags of `train` hold for every run.

    The same command goes on where it stopped: finished runs are left alone, interrupted ones resumed. Teachers that
    are not given are trained first, each by the recipe that trains it alone.

    Args:
        rows: only these rows, mostly methods; all if not given.
        columns: only these columns, mostly pairs TEACHER-STUDENT.
        seeds: of the runs; those of the table if not given.
        epochs: another length than the protocol's. Learning rates and warm-ups follow in proportion, and the table says
            that it is not the protocol.
        teachers: NETWORK=MODEL for teachers that exist already, as in resnet56=resnet56@FILE; a run folder will do.
        processes: runs at a time; more than one share the CPU's cores unless OMP_NUM_THREADS or --threads says else.
        folder: of the run folders, their logs, table.md and table.json; runs/reproduce/TABLE if not given.
        only_table: train nothing; the table of what is finished.
        cost: after the runs, also measure what a step of each method costs beyond the student's own, in the phase in
            which the student learns.
        rounds: of that measurement; cells that were measured in as many are not measured again.
    """

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    epochs: int | None = None
    teachers: tuple[str, ...] = ()
    processes: int = 1
    folder: Path | None = None
    only_table: bool = False
    cost: bool = False
    rounds: int = 10


@dataclass(frozen=True)
class Plan:
    """What a command is going to do.

    Args:
        table: of the paper.
        folder: for everything.
        cells: in the order of the table.
        teachers: to train first.
        runs: after them; each once, also where several cells share it.
    """

    table: Table
    folder: Path
    cells: tuple[PlannedCell, ...]
    teachers: tuple[PlannedRun, ...]
    runs: tuple[PlannedRun, ...]


def command(arguments: Sequence[str]) -> None:
    """Run `reproduce`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {PROGRAM} reproduce TABLE [flags] [flags of train]\n\ntables:")
        print("\n".join(f"  {name:<16}{table.title}" for name, table in TABLES.items()))
        print(f"\n{inspect.cleandoc(Flags.__doc__ or '')}")
        return
    flags, fixed = parsed_in_part(Flags, f"reproduce {arguments[0]}", arguments[1:])
    planned = plan(arguments[0], flags, fixed)
    failed: FailedRunsError | None = None
    if not flags.only_table:
        missing = [run for run in planned.teachers if not finished(planned.folder / run.name)]
        if missing:
            print("teachers first:")
            run_all(planned.teachers, planned.folder, flags.processes)
        try:
            run_all(planned.runs, planned.folder, flags.processes)
        except FailedRunsError as error:
            failed = error
        if flags.cost:
            _measure_costs(planned, flags.rounds)
    report(planned, ["reproduce", *arguments], failed)


def plan(name: str, flags: Flags, fixed: Sequence[str]) -> Plan:
    """Everything that will run, with everything that can be refused before the first run.

    Args:
        name: of the table.
        flags: of the command.
        fixed: flags of `train` for every run.

    Raises:
        ValueError: for a table, row, column or teacher that does not exist, flags that `train` refuses or that no run
            uses, a folder that is taken, and within torchrun.
    """
    if name not in TABLES:
        raise InputError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    if flags.only_table and flags.cost:
        raise InputError(
            "--only-table measures nothing: leave it out to measure --cost, which trains nothing that is finished"
        )
    if flags.processes < 1:
        raise InputError(f"processes must be at least 1, not {flags.processes}")
    refuse_torchrun("a table")
    folder = flags.folder or Path("runs", "reproduce", name)
    refuse_unfit_folder(folder, "table")
    wanted = Wanted(flags.rows, flags.columns, flags.seeds, flags.epochs, flags.teachers)
    cells, teachers = plan_cells(TABLES[name], wanted, fixed, folder)
    runs = tuple({run.name: run for cell in cells for run in cell.runs}.values())
    for run in (*teachers, *runs):
        refuse_other_experiment(folder / run.name, run.experiment, "table")
    return Plan(TABLES[name], folder, cells, teachers, runs)


def report(planned: Plan, words: Sequence[str], failed: FailedRunsError | None = None) -> None:
    """The table of the finished runs, into the folder and to standard output.

    Args:
        planned: what ran.
        words: arguments of the program, for the record.
        failed: raised at the end.

    Raises:
        ValueError: if no run is finished and none failed.
    """
    from attention_transfer.report.reproduction import to_json, to_markdown

    try:
        made = table_of(planned)
    except InputError as error:
        raise failed or error from error
    folder, typed = planned.folder, shlex.join([PROGRAM, *words])
    markdown = to_markdown(made)
    print(printable(f"\n{markdown}"))
    write_whole(folder / "table.md", f"`{typed}`\n\n{markdown}".encode())
    write_whole(folder / "table.json", to_json(made, typed).encode())
    print(f"table: {folder / 'table.md'}")
    if failed is not None:
        raise failed


def table_of(planned: Plan) -> "Reproduction":
    """The finished runs of a table beside what was published.

    Args:
        planned: what ran, or shall run.

    Raises:
        ValueError: if no run is finished.
    """
    from attention_transfer.report.reproduction import Entry, reproduction

    table, folder = planned.table, planned.folder
    costs = _read_costs(folder)
    entries = [
        Entry(
            cell.row,
            cell.column,
            len(cell.runs),
            tuple(begun for run in cell.runs if (begun := recorded_run(folder / run.name)) is not None),
            costs.get(f"{cell.row} {cell.column}"),
        )
        for cell in planned.cells
    ]
    if not any(run.finished for entry in entries for run in entry.runs):
        raise InputError(f"no run of this table is finished in {folder}: run it without --only-table first")
    return reproduction(
        table.title,
        entries,
        {place: asdict(number) for place, number in table.numbers.items()},
        alone=table.alone,
        changes=changes(planned.cells),
        source=table.source,
        images=own_images(planned.cells),
    )


def _measure_costs(planned: Plan, rounds: int) -> None:
    """Measure what has not been measured yet; one after the other, with nothing of ours beside it."""
    import json

    from attention_transfer.analysis.step_cost import measure_step_cost

    found = dict(_read_costs(planned.folder))
    for cell in planned.cells:
        name = f"{cell.row} {cell.column}"
        if found.get(name, {}).get("rounds") == rounds or cell.row == planned.table.alone:
            continue
        found[name] = measure_step_cost(cell.runs[0].experiment, rounds).row() | {"rounds": rounds}
        print(f"cost of a step, {name}: {found[name]['time_ratio']:.2f} times the student alone", flush=True)
        write_whole(planned.folder / _COSTS, (json.dumps(found, indent=2) + "\n").encode())


def _read_costs(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    path = folder / _COSTS
    if not path.exists():
        return {}
    fields = Fields(read_object(path), str(path))
    cells = {name: fields.inner(name, needed=True) for name in fields.values}
    for cell in filter(None, cells.values()):
        for name in _MEASURED:
            cell.number(name, needed=True)
    return {name: cell.values for name, cell in cells.items() if cell is not None}
