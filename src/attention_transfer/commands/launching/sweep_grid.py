"""The grid of a sweep: from `FIELD=V1,V2` and flags of `train` to one experiment for each combination of values."""

import contextlib
import difflib
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import product
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from attention_transfer.commands.flags.flag import RENAMED
from attention_transfer.commands.flags.words import ALIASES
from attention_transfer.commands.train import flags_of, parse, with_own_methods
from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment
from attention_transfer.methods.registry import known_keys, method_named, own_method

_CHOSEN_BY_THE_SWEEP = {"run-folder": "give --folder for the whole sweep", "tiny": "give --tiny for the whole sweep"}
_LONGEST_VALUE_IN_A_NAME = 40
# Of a class in a module, as methods of the user's own are named.
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Axis:
    """One `--over`: a field with its values, or several fields that change together.

    Args:
        fields: flags of `train` without their dashes.
        values: one for each field, as typed.
    """

    fields: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        name: of its folder, made of its values.
        values: as typed, by field; without those that mean nothing here, as `at.weight` does where at is not used.
        arguments: flags of `train` that make it.
        experiment: that they make.
    """

    name: str
    values: dict[str, str]
    arguments: tuple[str, ...]
    experiment: Experiment


@dataclass(frozen=True)
class Grid:
    """All runs of a sweep.

    Args:
        fields: that are swept, in the order given.
        cells: in the order in which they run.
    """

    fields: tuple[str, ...]
    cells: tuple[Cell, ...]


def grid(recipe: Experiment, fixed: Sequence[str], over: Sequence[str]) -> Grid:
    """Every combination of the values, the last `over` changing fastest; combinations that mean the same are one.

    Where methods are swept, flags and values of a method that a cell does not use are left out of it.

    Args:
        recipe: gives every flag its default.
        fixed: flags of `train` for every cell.
        over: `FIELD=V1,V2,…`, or `FIELD:FIELD=V1:W1,V2:W2,…` for fields that change together.

    Raises:
        ValueError: for a field that does not exist, comes twice or is fixed, no values or one twice, a value that does
            not parse, a cell whose experiment contradicts itself, and values that no cell uses.
    """
    kinds = flag_kinds(recipe, [*fixed, *(f"--{text}" for text in over)])
    axes = [read_axis(text, kinds) for text in over]
    swept = [name for axis in axes for name in axis.fields]
    for name in (name for name, count in Counter(swept).items() if count > 1):
        raise InputError(f"{name} is swept twice: give all its values in one --over")
    for name in sorted({_flag(word) for word in fixed if word.startswith("--")} & {*swept, *_negated(swept)}):
        raise InputError(f"--{name} is both fixed and swept: leave one of the two away")
    cells: list[Cell] = []
    for combination in product(*(axis.values for axis in axes)):
        values = dict(zip(swept, (value for each in combination for value in each), strict=True))
        cells.append(_cell(recipe, fixed, values, kinds))
    _refuse_unused(cells, fixed, swept)
    cells = _merged(cells)
    names = Counter(cell.name for cell in cells)
    for name in (name for name, count in names.items() if count > 1):
        both = [str(cell.values) for cell in cells if cell.name == name]
        raise InputError(f"{' and '.join(both)} would share the folder {name}: write one of the values differently")
    return Grid(tuple(swept), tuple(cells))


def flag_kinds(recipe: Experiment, words: Sequence[str] = ()) -> dict[str, Any]:
    """The type of every flag of `train`, by its name without dashes.

    Args:
        recipe: that is trained.
        words: flags as typed; methods of the user's own that they name by import path have flags, too.
    """
    named = [part for word in words for part in re.split(r"[=,+\s]", word) if _IMPORT_PATH.fullmatch(part)]
    own = {path: own_method(path) for path in named}
    return _kinds(flags_of(recipe, with_own_methods(recipe, own)), "")


def read_axis(text: str, kinds: Mapping[str, Any]) -> Axis:
    """Read `FIELD=V1,V2,…`.

    Args:
        text: as typed.
        kinds: of `flag_kinds`.

    Raises:
        ValueError: as `grid` says.
    """
    left, separator, right = text.partition("=")
    if not separator or not left:
        raise InputError(f"--over {text}: write FIELD=V1,V2,… as in --over at.weight=0,100,1000")
    names = tuple(name.strip().removeprefix("--").replace("_", "-") for name in left.split(":"))
    names = tuple(name if name in kinds else ALIASES.get(name, name) for name in names)
    for name in names:
        if name in _CHOSEN_BY_THE_SWEEP:
            raise InputError(f"{name} cannot be swept: {_CHOSEN_BY_THE_SWEEP[name]}")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=3) or [
                known for known in kinds if known.endswith(f".{name}")
            ]
            hint = f"did you mean {' or '.join(near)}?" if near else "see the flags of train RECIPE --help"
            raise InputError(f"--over {text}: train has no flag {name!r}; {hint}")
    items = [item.strip() for item in right.split(",")]
    if not all(items):
        raise InputError(f"--over {text}: there is an empty value; write FIELD=V1,V2,… (none for no value)")
    values = [(item,) if len(names) == 1 else tuple(item.split(":")) for item in items]
    for value in values:
        if len(value) != len(names):
            raise InputError(f"--over {text}: {len(names)} fields need values like A:B, not {':'.join(value)!r}")
    meanings = [[_meaning(name, word, kinds[name]) for name, word in zip(names, each, strict=True)] for each in values]
    same = [":".join(each) for each, meaning in zip(values, meanings, strict=True) if meanings.count(meaning) > 1]
    if same:
        raise InputError(f"--over {text}: one value comes twice, as {' and '.join(same)}")
    return Axis(names, tuple(values))


def without_flags_of_others(words: Sequence[str], used: set[str]) -> list[str]:
    """Words of a command line without the flags of methods that are not used."""
    kept, keeping = list[str](), True
    for word in words:
        if word.startswith("--"):
            method = method_of(_flag(word))
            keeping = method is None or method in used
        if keeping:
            kept.append(word)
    return kept


def method_of(name: str) -> str | None:
    """The method that a flag, written without its dashes, belongs to; None for flags of the experiment."""
    key, dot, _ = name.partition(".")
    return key if dot and key in known_keys() else None


def _kinds(kind: Any, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        hint = hints[each.name]
        said = [mark.name for mark in get_args(hint)[1:] if hasattr(mark, "name")] if _is_annotated(hint) else []
        own = RENAMED.get(kind.__name__, {}).get(each.name, each.name)
        name = own if not said or said[0] is None else said[0]
        plain = get_args(hint)[0] if _is_annotated(hint) else hint
        path = ".".join(part for part in (prefix, name) if part).replace("_", "-")
        found |= _kinds(plain, path) if is_dataclass(plain) else {path: plain}
    return found


def _is_annotated(hint: Any) -> bool:
    return get_origin(hint) is Annotated


def _words(name: str, value: str, kind: Any) -> list[str]:
    """One value as words of a command line."""
    kinds = list(get_args(kind)) if get_origin(kind) in (Union, UnionType) else [kind]
    if kinds == [bool]:
        if value.lower() not in ("true", "false"):
            raise InputError(f"{name} is true or false, not {value!r}")
        return [f"--{name}" if value.lower() == "true" else f"--{_negated([name])[0]}"]
    if NoneType in kinds and value.lower() == "none":
        return [f"--{name}", "None"]
    if bool in kinds and value.lower() in ("true", "false"):
        return [f"--{name}", value.capitalize()]
    if any(get_origin(each) is tuple for each in kinds):
        return [f"--{name}", *(value.split("+") if value.lower() != "none" else [])]
    # Joined, so that a value may begin with a dash.
    return [f"--{name}={value}"]


def _meaning(name: str, value: str, kind: Any) -> tuple[str | float, ...]:
    """Equal for ways to write the same: 1 and 1.0, true and True."""
    words = _words(name, value, kind)
    if len(words) > 1 or "=" not in words[0]:
        return tuple(words)
    try:
        return (float(value),)
    except ValueError:
        return (value,)


def _cell(recipe: Experiment, fixed: Sequence[str], values: Mapping[str, str], kinds: Mapping[str, Any]) -> Cell:
    """One combination.

    Raises:
        ValueError: if its flags are refused.
    """
    used = set(known_keys())
    if "methods" in values:
        named = ((name, method_named(name)) for name in values["methods"].split("+"))
        used = {name if method is None else method.key for name, method in named}
    kept = {name: value for name, value in values.items() if method_of(name) is None or method_of(name) in used}
    words = without_flags_of_others(fixed, used)
    label = ", ".join(f"{name}={value}" for name, value in kept.items())
    for name, value in kept.items():
        words += _words(name, value, kinds[name])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            experiment, _ = parse(recipe, words)
    except InputError as error:
        raise InputError(f"the cell {label or '(all fixed)'} is refused: {error}") from error
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise InputError(f"the cell {label or '(all fixed)'} is refused: {_boxed(said.getvalue())}") from stopped
    return Cell(_folder_name(kept), kept, tuple(words), experiment)


def _refuse_unused(cells: Sequence[Cell], fixed: Sequence[str], swept: Sequence[str]) -> None:
    used = {method.key for cell in cells for method in cell.experiment.methods}
    for name in [*swept, *(_flag(word) for word in fixed if word.startswith("--"))]:
        if method_of(name) is not None and method_of(name) not in used:
            raise InputError(f"--{name} is given, but no cell uses the method {method_of(name)}: name it in methods")


def _merged(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of equal experiments as one, with the values in which they agree."""
    alike: dict[Experiment, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(cell.experiment, []).append(cell)
    merged: list[Cell] = []
    for first, *others in alike.values():
        values = {
            name: value
            for name, value in first.values.items()
            if all(other.values.get(name) == value for other in others)
        }
        merged.append(Cell(_folder_name(values), values, first.arguments, first.experiment))
    return merged


def _flag(word: str) -> str:
    return word.removeprefix("--").partition("=")[0].replace("_", "-")


def _negated(names: Sequence[str]) -> list[str]:
    """How flags are switched off: `no-compile`, `at.no-flag`."""
    return [".".join([*name.split(".")[:-1], f"no-{name.split('.')[-1]}"]) for name in names]


def _folder_name(values: Mapping[str, str]) -> str:
    parts: list[str] = []
    for name, value in values.items():
        plain = re.sub(r"[^A-Za-z0-9.+=-]+", "-", value).strip("-.") or "value"
        if len(plain) > _LONGEST_VALUE_IN_A_NAME:
            # The end of a path says more than its beginning.
            digest = hashlib.blake2b(value.encode(), digest_size=3).hexdigest()
            plain = f"{plain[-_LONGEST_VALUE_IN_A_NAME + 7 :]}-{digest}"
        parts.append(f"{name}={plain}")
    return "_".join(parts) or "run"


def _boxed(text: str) -> str:
    """What tyro says in its box, up to the first rule."""
    lines = [line.strip("│ ").strip() for line in text.splitlines() if line.startswith("│")]
    rule = next((place for place, line in enumerate(lines) if line.startswith("──")), len(lines))
    return " ".join(line for line in lines[:rule] if line) or text.strip()
