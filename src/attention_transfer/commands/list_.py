"""`list`: methods, models, data sets and recipes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

Room = Literal["all", "methods", "models", "data", "recipes"]


@dataclass(frozen=True)
class Flags:
    """Show what there is.

    Args:
        room: what to show.
    """

    room: Annotated[Room, tyro.conf.Positional] = "all"


def command(arguments: Sequence[str]) -> None:
    """Run `list`."""
    flags = tyro.cli(Flags, prog="attention-transfer list", args=list(arguments))
    from attention_transfer.data import DATA
    from attention_transfer.methods import METHODS
    from attention_transfer.models import MODELS
    from attention_transfer.recipes import RECIPES

    rooms: dict[str, list[tuple[str, str]]] = {
        "methods": [(key, first_line(method)) for key, method in METHODS.items()],
        "models": [
            *((name, "CIFAR network of this package") for name in MODELS),
            ("timm:NAME", "any classifier of timm"),
            ("torchvision:NAME", "any classifier of torchvision"),
            ("hf:NAME", "any image classifier of transformers (pip install 'attention-transfer[hf]')"),
            ("RUN", "a run folder, for the student it trained"),
            ("NAME@FILE", "any of these names with weights from a file; NAME@pretrained with its published ones"),
        ],
        "data": [(name, first_line(loader)) for name, loader in DATA.items()],
        "recipes": [(name, first_line(recipe)) for name, recipe in RECIPES.items()],
    }
    for room, rows in rooms.items():
        if flags.room in ("all", room):
            print(f"{room}:")
            print("\n\n".join("\n".join(lines(group)) for group in (grouped(rows) if room == "recipes" else [rows])))


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


def first_line(thing: object) -> str:
    """The sentence that says what something is."""
    return (thing.__doc__ or "").strip().partition("\n")[0]
