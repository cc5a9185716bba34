"""`list`: methods, models, data sets and recipes, or those that some words fit."""

import re
import textwrap
from collections.abc import Sequence

from attention_transfer.commands import PROGRAM
from attention_transfer.commands.early import family_lines
from attention_transfer.commands.flags.words import HELP
from attention_transfer.commands.index.reading import index, methods_in_source
from attention_transfer.errors import InputError

_WIDTH = 120
_SPECIFICATIONS = {
    "timm:NAME": "any classifier of timm",
    "torchvision:NAME": "any classifier of torchvision",
    "hf:NAME": "any image classifier of transformers (pip install 'attention-transfer[hf]')",
    "RUN": "a run folder, for the student it trained",
    "NAME@FILE": "any of these names with weights from a file; NAME@pretrained with its published ones",
}
_ROOMS = ("methods", "models", "data", "recipes")
_USAGE = f"""usage: {PROGRAM} list [methods|models|data|recipes|all] [WORD...]

Without words: methods, models, data sets and families of recipes. With words: what has all of them in its name or
description, in capital letters or small ones; of one kind where its name comes first."""


def command(arguments: Sequence[str]) -> None:
    """Run `list`.

    Raises:
        InputError: for a flag, or where nothing fits the words.
    """
    if set(HELP) & set(arguments):
        print(_USAGE)
        return
    for word in arguments:
        if word.startswith("-"):
            raise InputError(f"list has no flag {word}: give words that shall be found, as in list recipes digits")
    room = arguments[0] if arguments and arguments[0] in (*_ROOMS, "all") else None
    words = list(arguments[room is not None :])
    if not words and room is None:
        print("\n".join(overview()))
        return
    rooms = _ROOMS if room in (None, "all") else (room,)
    found = {each: _fitting(_rows(each), words) for each in rooms}
    if not any(found.values()):
        raise InputError(f"nothing is called {' '.join(words)!r} or described so; {PROGRAM} list shows what there is")
    for each, rows in found.items():
        if rows:
            groups = grouped(rows) if each == "recipes" else [rows]
            print(f"{each}:")
            print("\n\n".join("\n".join(lines(group)) for group in groups))


def overview() -> list[str]:
    """Everything on one screen: recipes by their families."""
    names = textwrap.wrap(", ".join(index().models), _WIDTH, initial_indent="  ", subsequent_indent="  ")
    shown = ["methods:", *lines(_rows("methods")), "models:", *names, *lines(list(_SPECIFICATIONS.items()))]
    shown += ["data:", *lines(_rows("data")), "recipes (list recipes WORD shows them):", *family_lines()]
    return [line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…" for line in shown]


def _rows(room: str) -> list[tuple[str, str]]:
    """Names of one kind, and what they are."""
    if room == "methods":
        return list(methods_in_source().items())
    if room == "models":
        return [*((name, "CIFAR network of this package") for name in index().models), *_SPECIFICATIONS.items()]
    return list((index().data if room == "data" else index().recipes).items())


def _fitting(rows: Sequence[tuple[str, str]], words: Sequence[str]) -> list[tuple[str, str]]:
    return [row for row in rows if all(word.lower() in " ".join(row).lower() for word in words)]


def lines(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Names in a column and what they are."""
    width = max(28, *(len(name) for name, _ in rows))
    return [f"  {name:<{width}}  {text}" for name, text in rows]


def grouped(rows: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Rows whose names begin with the same word, such as a paper's acronym; within it, 10 comes after 9."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, text in rows:
        groups.setdefault(name.partition("-")[0], []).append((name, text))
    return [sorted(group, key=lambda row: _natural(row[0])) for group in groups.values()]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
