"""`list`: methods, models, data sets and recipes."""

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
            for name, text in rows:
                print(f"  {name:<28}  {text}")


def first_line(thing: object) -> str:
    """The sentence that says what something is."""
    return (thing.__doc__ or "").strip().partition("\n")[0]
