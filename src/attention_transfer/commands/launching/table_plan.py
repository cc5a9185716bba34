"""From a table of recipes to the runs that make it: which cells, which seeds, whose teachers, how long."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attention_transfer.commands.launching.many_runs import PlannedRun
from attention_transfer.commands.launching.sweep_grid import method_of, without_flags_of_others
from attention_transfer.commands.train import parse
from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment, to_json
from attention_transfer.methods import Method
from attention_transfer.models.naming import split_weights
from attention_transfer.recipes import RECIPES
from attention_transfer.recipes.tables import Cell, Table
from attention_transfer.runs import differing_fields, flatten, recorded_run

# What a run may differ in and still follow the protocol: where it runs, and where images and networks are found.
_NO_CHANGE = (
    "seed",
    "teacher_mean",
    "teacher_std",
    "data.root",
    "data.num_workers",
    "training.device",
    "training.threads",
    "training.channels_last",
    "training.compile",
    "training.checkpoint_every_steps",
    "training.snapshot_epochs",
    "training.evaluate_every_epochs",
)
# Files of the user's, which may hold the images of any data set.
_OWN_IMAGES = ("npz:", "folder:")
# Flags that a teacher that is trained for the table shares with its students.
_OF_TEACHERS = ("data", "data-root", "num-workers", "device", "precision", "threads", "compile", "no-compile")
_CHOSEN_HERE = {
    "run-folder": "each run has a folder of its own: give --folder for all of them",
    "seed": "give --seeds for all of them",
    "teacher": "give --teachers NETWORK=MODEL",
    "student": "the table's columns choose it",
    "methods": "the table's rows choose them: give --rows",
    "task-weight": "the table's rows choose it",
}


@dataclass(frozen=True)
class Wanted:
    """What of a table is wanted.

    Args:
        rows: rows of the table; all if empty.
        columns: columns of the table; all if empty.
        seeds: seeds; those of the table if empty.
        epochs: epochs; those of the recipes if None.
        teachers: NETWORK=MODEL.
    """

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    epochs: int | None = None
    teachers: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a table with its runs.

    Args:
        row: row of the table.
        column: column of the table.
        recipe: as it is.
        runs: one for each seed.
    """

    row: str
    column: str
    recipe: Experiment
    runs: tuple[PlannedRun, ...]


def plan_cells(
    table: Table, wanted: Wanted, fixed: Sequence[str], folder: Path
) -> tuple[tuple[PlannedCell, ...], tuple[PlannedRun, ...]]:
    """The cells that are wanted, and the teachers that must be trained first.

    Args:
        table: of all cells.
        wanted: of it.
        fixed: flags of `train` for every run; those of a method only where it is used.
        folder: where the run folders will be.

    Raises:
        ValueError: for anything that does not exist, that `train` refuses, or that no cell uses.
    """
    _refuse_chosen(fixed)
    cells = _chosen(table, wanted)
    seeds = wanted.seeds or table.seeds
    if len(set(seeds)) < len(seeds):
        raise InputError(f"a seed comes twice in --seeds {' '.join(map(str, seeds))}")
    given = _given_teachers(wanted.teachers)
    tiny = any(_is(word, "tiny") for word in fixed)
    teachers: dict[str, PlannedRun] = {}
    planned: list[PlannedCell] = []
    used, asked_for = set[str](), set[str]()
    for cell in cells:
        recipe = RECIPES[cell.recipe]()
        used |= {method.key for method in recipe.methods}
        # What is said aloud comes last, and holds.
        words = _shortened(recipe, wanted.epochs)
        words += without_flags_of_others(fixed, {method.key for method in recipe.methods})
        if cell.teacher is not None and recipe.teacher is not None and not tiny:
            asked_for.add(recipe.teacher)
            if recipe.teacher in given:
                words += ["--teacher", given[recipe.teacher]]
            else:
                run = teachers.setdefault(cell.teacher, _teacher(cell.teacher, fixed))
                words += ["--teacher", str(folder / run.name)]
        planned.append(PlannedCell(cell.row, cell.column, recipe, _runs(cell, recipe, words, seeds)))
    _refuse_unused(fixed, used)
    for name in given.keys() - asked_for if not tiny else ():
        raise InputError(
            f"--teachers {name}=…: no teacher of these cells is called that; they are {', '.join(sorted(asked_for))}"
        )
    return tuple(planned), tuple(teachers.values())


def changes(cells: Iterable[PlannedCell]) -> tuple[str, ...]:
    """What the runs differ in from their recipes, in words; empty where they follow the protocol."""
    found: dict[str, None] = {}
    for cell in cells:
        run = cell.runs[0].experiment
        # What follows the number of epochs is no change of its own.
        before, now = (to_json(each) for each in (_at_length(cell.recipe, run.training.epochs), run))
        before["training"]["epochs"] = cell.recipe.training.epochs
        for field, (theirs, ours) in differing_fields(before, now).items():
            ignored = any(field == name or field.startswith(f"{name}.") for name in _NO_CHANGE)
            ignored = ignored or (field == "data.name" and str(ours).startswith(_OWN_IMAGES))
            if field == "teacher":
                theirs, ours = str(theirs).partition("@")[0].partition("(")[0], _network_of(ours)
                ignored = ours in (None, theirs)
            if not ignored:
                found[f"{_named(field, before)} {_shown(ours)} instead of {_shown(theirs)}"] = None
    return tuple(found)


def own_images(cells: Iterable[PlannedCell]) -> tuple[str, ...]:
    """Files of the user's that stand for the images of the recipes: whether they hold these, nobody has looked."""
    names = dict.fromkeys(cell.runs[0].experiment.data.name for cell in cells)
    return tuple(name for name in names if name.startswith(_OWN_IMAGES))


def _network_of(teacher: str | None) -> str | None:
    """Name of the network that a teacher is, without its arguments; None where nothing is known of it yet."""
    from attention_transfer.files.env_paths import expand

    if teacher is None:
        return None
    folder = Path(expand(teacher))
    run = recorded_run(folder)
    name, weights = (str(run.experiment.get("student", "")), "") if run is not None else split_weights(teacher)
    return None if weights is None else name.partition("(")[0]


def _named(field: str, experiment: Mapping[str, Any]) -> str:
    """A field of JSON by the flag's name: methods by their keys, rooms left out."""
    room, _, rest = field.partition(".")
    if room == "methods":
        number, _, inner = rest.partition(".")
        return f"{experiment['methods'][int(number)]['name']}.{inner}" if number.isdigit() else field
    return room if rest == "name" else rest or room


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:,}" if type(value) is int else str(value)


def _chosen(table: Table, wanted: Wanted) -> list[Cell]:
    for kind, asked, known in (("row", wanted.rows, table.rows), ("column", wanted.columns, table.columns)):
        for name in asked:
            if name not in known:
                raise InputError(f"the table has no {kind} {name!r}; it has {', '.join(known)}")
    cells = [
        cell
        for cell in table.cells
        if (not wanted.rows or cell.row in wanted.rows) and (not wanted.columns or cell.column in wanted.columns)
    ]
    if not cells:
        raise InputError("these rows and columns have no cell in common")
    return cells


def _given_teachers(texts: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for text in texts:
        name, separator, model = text.partition("=")
        if not separator or not name or not model:
            raise InputError(f"--teachers {text}: write NETWORK=MODEL, as in resnet56=resnet56@FILE")
        if name in given:
            raise InputError(f"--teachers gives {name} twice")
        given[name] = model
    return given


def _runs(cell: Cell, recipe: Experiment, words: Sequence[str], seeds: Sequence[int]) -> tuple[PlannedRun, ...]:
    try:
        experiment, _ = parse(recipe, words)
    except InputError as error:
        raise InputError(f"{cell.recipe} is refused: {error}") from error
    return tuple(
        PlannedRun(
            f"{cell.recipe}_seed{seed}",
            ("train", cell.recipe, *words, "--seed", str(seed)),
            replace(experiment, seed=seed),
        )
        for seed in seeds
    )


def _teacher(recipe: str, fixed: Sequence[str]) -> PlannedRun:
    """The run that trains a teacher by its own recipe, whatever is asked of its students."""
    words, keeping = list[str](), False
    for word in fixed:
        if word.startswith("--"):
            keeping = any(_is(word, name) for name in _OF_TEACHERS)
        if keeping:
            words.append(word)
    experiment, _ = parse(RECIPES[recipe](), words)
    return PlannedRun(f"teacher_{recipe}", ("train", recipe, *words), experiment)


def _at_length(recipe: Experiment, epochs: int) -> Experiment:
    """A recipe as it is for so many epochs."""
    experiment, _ = parse(recipe, _shortened(recipe, None if epochs == recipe.training.epochs else epochs))
    return experiment


def _shortened(recipe: Experiment, epochs: int | None) -> list[str]:
    """Flags that make a run shorter or longer: what counts epochs follows in proportion."""
    if epochs is None:
        return []
    share = epochs / recipe.training.epochs
    words = ["--epochs", str(epochs)]
    if recipe.optimisation.warmup_epochs:
        words += ["--warmup-epochs", f"{share * recipe.optimisation.warmup_epochs:g}"]
    if recipe.training.snapshot_epochs:
        kept = sorted({round(share * epoch) for epoch in recipe.training.snapshot_epochs})
        words += ["--snapshot-epochs", *map(str, kept)]
    for method in recipe.methods:
        stretched = method.stretched(share)
        before, now = (flatten(to_json(replace(recipe, methods=(each,)))) for each in (method, stretched))
        for path in dict.fromkeys(_flag(path) for path in now if now[path] != before.get(path)):
            words += [f"--{method.key}.{path.replace('_', '-')}", *_typed(stretched, path)]
    return words


def _flag(path: str) -> str:
    """The flag, without its method, that holds a leaf of the experiment's JSON: places in lists are left out."""
    return ".".join(part for part in path.split(".")[2:] if not part.isdigit())


def _typed(method: Method, path: str) -> list[str]:
    value: Any = method
    for name in path.split("."):
        value = getattr(value, name)
    pairs: Any = value if isinstance(value, tuple) else ((value,),)
    return [f"{number:g}" for pair in pairs for number in pair]


def _is(word: str, flag: str) -> bool:
    return word.startswith("--") and word[2:].partition("=")[0].replace("_", "-") == flag


def _refuse_chosen(fixed: Sequence[str]) -> None:
    for flag, way_out in _CHOSEN_HERE.items():
        if any(_is(word, flag) for word in fixed):
            raise InputError(f"--{flag} cannot be given for a whole table: {way_out}")


def _refuse_unused(fixed: Sequence[str], used: set[str]) -> None:
    for word in fixed:
        key = method_of(word.removeprefix("--")) if word.startswith("--") else None
        if key is not None and key not in used:
            raise InputError(f"{word} is given, but no chosen row uses the method {key}")
