"""Names, descriptions, flags and settings of recipes, as `index.json` holds them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from attention_transfer.commands.flags.flag import Flag

FILE = Path(__file__).with_name("index.json")
SECTIONS = ("data", "optimisation", "training")


@dataclass(frozen=True)
class Index:
    """What the file says.

    Args:
        content: of the file.
    """

    content: Mapping[str, Any]

    @property
    def recipes(self) -> dict[str, str]:
        """What each recipe is, by its name."""
        return {name: each["text"] for name, each in self.content["recipes"].items()}

    @property
    def data(self) -> dict[str, str]:
        """What each data set is, by its name."""
        return self.content["data"]

    @property
    def models(self) -> list[str]:
        """Names of the networks of this package."""
        return self.content["models"]

    @property
    def tables(self) -> dict[str, str]:
        """What each table is, by its name."""
        return self.content["tables"]

    @property
    def methods(self) -> dict[str, Any]:
        """Defaults and flags of the methods of recipes, by key."""
        return self.content["methods"]

    @cached_property
    def train(self) -> dict[str, Flag]:
        """Flags of `train`, by name; methods' are those of recipes."""
        return {each["name"]: Flag.from_json(each) for each in self.content["train"]}

    def flags(self, command: str) -> dict[str, Flag]:
        """A command's own flags, by name."""
        return {each["name"]: Flag.from_json(each) for each in self.content["commands"][command]["flags"]}

    def text(self, command: str) -> str:
        """What a command does, as its flags' docstring says."""
        return self.content["commands"][command]["text"]

    def experiment(self, recipe: str, tiny: bool = False) -> dict[str, Any]:
        """The experiment of a recipe as JSON, or its tiny form on digits."""
        said = self.content["recipes"][recipe]
        made = json.loads(json.dumps(self.content["experiment"])) | {"recipe": recipe}
        for changes in (said["changes"], said["tiny"] if tiny else {}):
            for path, value in changes.items():
                section, dot, name = path.partition(".")
                (made[section] if dot else made)[name if dot else section] = value
        made["methods"] = [self.methods[each["name"]]["default"] | each for each in made["methods"]]
        return made


@cache
def index() -> Index:
    """The index of this version."""
    return Index(json.loads(FILE.read_text(encoding="utf-8")))
