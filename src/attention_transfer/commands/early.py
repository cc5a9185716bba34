"""What is answered before torch is loaded: help, names that do not exist, and runs that are finished already."""

import inspect
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attention_transfer.commands import PROGRAM
from attention_transfer.commands.finished import is_finished
from attention_transfer.commands.flags.flag import Flag
from attention_transfer.commands.flags.help_text import grouped, long_lines, short_lines, shown
from attention_transfer.commands.flags.words import HELP, check_names, name_of, split, without_aliases
from attention_transfer.commands.index.reading import FAMILIES, family, index, methods_in_source
from attention_transfer.errors import InputError, printable

_OF_RECIPES = ("train", "sweep", "suggest-weight")


def answered(command: str, words: Sequence[str]) -> list[str] | None:
    """Answer a command line where that needs no network.

    Args:
        command: its name.
        words: that follow it.

    Returns:
        The words with the flags' own names, for the command to run; None where everything is said.

    Raises:
        InputError: for a flag, recipe, method, model, data set or choice that does not exist.
    """
    if command == "list":
        return list(words)
    if command in _OF_RECIPES:
        return _of_recipe(command, words)
    if command == "reproduce":
        return _of_table(words)
    flags = index().flags(command)
    words = without_aliases(words, flags)
    if set(HELP) & set(words):
        _show_command(command, flags, set(words))
        return None
    check_names(words, flags, f"{command} --help-all")
    _check_values(words)
    return words


def check_recipe(name: str) -> None:
    """Refuse a recipe that does not exist.

    Raises:
        InputError: naming the nearest ones.
    """
    recipes = index().recipes
    if name not in recipes:
        near = get_close_matches(name, recipes, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"{PROGRAM} list recipes shows them"
        raise InputError(f"there is no recipe {name!r}; {hint}")


def show_recipes(command: str) -> None:
    """How a command of recipes is called, and their families."""
    print(f"usage: {PROGRAM} {command} RECIPE [flags]\n\nfamilies of recipes ({PROGRAM} list recipes WORD shows them):")
    print("\n".join(family_lines()))
    print(f"\n{PROGRAM} {command} RECIPE --help shows what a recipe uses, --help-all every flag.")


def family_lines() -> list[str]:
    """A line for each family of recipes."""
    recipes = index().recipes
    counts = {name: sum(family(recipe) == name for recipe in recipes) for name in FAMILIES}
    return [f"  {name + '-*' * (counts[name] > 1):<16}{counts[name]:>4}  {text}" for name, text in FAMILIES.items()]


def _of_recipe(command: str, words: Sequence[str]) -> list[str] | None:
    if not words or words[0] in HELP:
        show_recipes(command)
        return None
    recipe, rest = words[0], list(words[1:])
    check_recipe(recipe)
    own = {} if command == "train" else index().flags(command)
    known = _with_own_methods(index().train | own, rest)
    rest = without_aliases(rest, known)
    if set(HELP) & set(rest):
        _show_recipe(command, recipe, own, known, rest)
        return None
    _check_flags(rest, known, f"{command} {recipe} --help-all")
    _check_values(rest)
    free = split(rest)[0]
    if free:
        raise InputError(f"{free[0]!r} is no flag of {command}: flags begin with --, as in --epochs 10")
    folder = is_finished(index(), recipe, rest) if command == "train" else None
    if folder is not None:
        print(printable(f"{folder} is finished already: nothing to do"))
        return None
    return [recipe, *rest]


def _with_own_methods(known: dict[str, Flag], words: Sequence[str]) -> dict[str, Flag]:
    """Flags with those of methods that are named by import path, or that no recipe uses: these load torch."""
    keys = {name.partition(".")[0] for name, _ in split(words)[1] if "." in name}
    named = [value for name, values in split(words)[1] if name in ("methods", "method") for value in values]
    ours = index().methods
    if not any(":" in value for value in named) and not ((keys | set(named)) - ours.keys()) & methods_keys(keys, named):
        return known
    from attention_transfer.commands.train import own_methods, train_flags
    from attention_transfer.methods import METHODS

    every = {**METHODS, **{method.key: method for method in own_methods(words).values()}}
    return {flag.name: flag for flag in train_flags(every)} | known


def methods_keys(*asked: Any) -> set[str]:
    """Keys of all methods, read from the source where one is asked for that no recipe has."""
    ours = index().methods
    return set(ours) if all(key in ours for keys in asked for key in keys) else set(methods_in_source())


def _check_flags(words: Sequence[str], known: Mapping[str, Flag], shown_by: str) -> None:
    for name, _ in split(words)[1]:
        key, dot, _ = name.partition(".")
        if dot and name not in known and not any(each.startswith(f"{key}.") for each in known):
            _refuse_method(key)
    check_names(words, known, shown_by)


def _refuse_method(key: str) -> None:
    methods = methods_in_source()
    near = get_close_matches(key, methods, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(methods)}."
    raise InputError(f"there is no method {key}; {hint} A method of your own is named package.module:Class")


def _check_values(words: Sequence[str]) -> None:
    """Refuse names of methods, data sets and models that cannot be meant."""
    for name, values in split(words)[1]:
        if name == "methods":
            for value in values:
                if ":" not in value and value not in methods_keys([value]):
                    _refuse_method(value)
        elif name == "data" and values and "$" not in values[0]:
            _check_data(values[0])
        elif name in ("student", "teacher") and values:
            _check_model(values[0])


def _check_data(name: str) -> None:
    data = index().data
    if name.partition(":")[0] not in data:
        near = get_close_matches(name.partition(":")[0], data, n=1)
        hint = f"did you mean {near[0]}? It is " if near else "choose "
        raise InputError(f"there is no data set '{name}': {hint}one of {', '.join(data)} (npz:PATH, folder:PATH)")


def _check_model(name: str) -> None:
    models = index().models
    plain = re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None
    if plain and name != "None" and name not in models and not Path(name).exists():
        near = get_close_matches(name, models, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"{PROGRAM} list models shows ours."
        raise InputError(
            f"there is no model {name!r}, and no run folder or file of that name; {hint} Other networks are written "
            "timm:NAME, torchvision:NAME or hf:NAME"
        )


def _of_table(words: Sequence[str]) -> list[str] | None:
    tables = index().tables
    own = index().flags("reproduce")
    if not words or words[0] in HELP:
        print(f"usage: {PROGRAM} reproduce TABLE [flags] [flags of train]\n\ntables:")
        print("\n".join(f"  {name:<16}{title}" for name, title in tables.items()))
        print("\n".join(["", inspect.cleandoc(index().text("reproduce")), "", *long_lines(own.values(), {})]))
        return None
    if words[0] not in tables:
        near = get_close_matches(words[0], tables, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(tables)}"
        raise InputError(f"there is no table {words[0]!r}; {hint}")
    known = _with_own_methods(index().train | own, words[1:])
    rest = without_aliases(words[1:], known)
    if set(HELP) & set(rest):
        print(f"usage: {PROGRAM} reproduce {words[0]} [flags] [flags of train]\n\n{tables[words[0]]}\n")
        print("\n".join(short_lines(own.values(), {})))
        _show_train(known, {}, [], everything="--help-all" in rest, without=own)
        return None
    _check_flags(rest, known, f"reproduce {words[0]} --help-all")
    _check_values([word for word in rest if name_of(word) != "teacher"])
    return [words[0], *rest]


def _show_recipe(
    command: str, recipe: str, own: Mapping[str, Flag], known: Mapping[str, Flag], words: Sequence[str]
) -> None:
    experiment = index().experiment(recipe)
    values = {path: value for path, value in experiment.items() if not isinstance(value, dict)}
    values |= {
        f"{part}.{name}": value
        for part in ("data", "optimisation", "training")
        for name, value in experiment[part].items()
    }
    methods = [method["name"] for method in experiment["methods"]]
    for method in experiment["methods"]:
        for name, value in method.items():
            inner = value if isinstance(value, dict) else {}
            values |= {f"methods.{method['name']}.{name}": value}
            values |= {f"methods.{method['name']}.{name}.{each}": said for each, said in inner.items()}
    values["methods"] = methods
    given = [value for name, found in split(words)[1] if name == "methods" for value in found]
    if any(name == "methods" for name, _ in split(words)[1]):
        outside = {name.partition(".")[0] for name in known if "." in name} - set(index().methods)
        methods = [key for key in given if ":" not in key] + (
            list(outside) if any(":" in each for each in given) else []
        )
    print(f"usage: {PROGRAM} {command} {recipe} [flags]\n\n{index().recipes[recipe]}\n")
    if own:
        print("\n".join([inspect.cleandoc(index().text(command)), "", *short_lines(own.values(), {}), ""]))
    _show_train(known, values, methods, everything="--help-all" in words, without=own)


def _show_train(
    known: Mapping[str, Flag],
    values: Mapping[str, Any],
    methods: Sequence[str],
    *,
    everything: bool,
    without: Mapping[str, Flag],
) -> None:
    flags = [flag for name, flag in known.items() if name not in without]
    if not everything:
        flags = [flag for flag in flags if shown(flag, values.get(flag.path, flag.default), methods)]
    for title, members in grouped(flags).items():
        print("\n".join([f"{title}:", *(long_lines if everything else short_lines)(members, values)]))
    if not everything:
        print("--help-all: every flag, of every method, with all that is said of it")


def _show_command(command: str, flags: Mapping[str, Flag], words: set[str]) -> None:
    place = " ".join(flag.name.upper() for flag in flags.values() if flag.positional)
    print(
        f"usage: {PROGRAM} {command} {place}{' ' * bool(place)}[flags]\n\n{inspect.cleandoc(index().text(command))}\n"
    )
    if command != "pretrain" or "--help-all" in words:
        print("\n".join(long_lines(flags.values(), {})))
        return
    usual = index().train
    kept = [
        flag for flag in flags.values() if shown(flag, flag.default, ()) or flag.default != usual[flag.name].default
    ]
    print("\n".join([*short_lines(kept, {}), "--help-all: every flag, with all that is said of it"]))
