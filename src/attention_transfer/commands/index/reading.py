"""Names, descriptions, flags and settings of recipes, as `index.json` holds them."""

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from attention_transfer.commands.flags.flag import Flag

_ROOT = Path(__file__).parents[3]  # holds the package
_METHODS = Path(__file__).parents[2] / "methods"


def methods_in_source() -> dict[str, str]:
    """The first sentence of every method's class by its key, in the order of the registry."""
    return dict(_described(ast.parse((_METHODS / "registry.py").read_text(encoding="utf-8"))))


def _described(registry: ast.Module) -> Iterator[tuple[str, str]]:
    for node in registry.body:
        names = {alias.name for alias in node.names if alias.asname} if isinstance(node, ast.ImportFrom) else set[str]()
        if isinstance(node, ast.ImportFrom) and node.module and names:
            file = _ROOT.joinpath(*node.module.split(".")).with_suffix(".py")
            for found in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(found, ast.ClassDef) and found.name in names:
                    yield _key(found), (ast.get_docstring(found) or "").partition("\n")[0]


def _key(found: ast.ClassDef) -> str:
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "key" and node.value is not None:
            return str(ast.literal_eval(node.value))
    return found.name


FAMILIES = {
    "digits": "cluttered digits, on any machine in minutes: teachers, students alone, every method",
    "cifar100": "CIFAR-100: networks alone, and TEACHER-STUDENT-METHOD under CAT-KD's protocol",
    "photographs": "photographs in class folders of your own",
    "at": "Paying More Attention to Attention (AT): CIFAR-10, ImageNet, CUB, scenes",
    "cat": "Class Attention Transfer (CAT-KD): its tables and figures by number",
    "imagenet": "ImageNet: networks alone, and TEACHER-STUDENT-METHOD",
    "deit": "DeiT: distillation tokens, and students alone",
    "links": "attention links (AFD): its tables by number",
    "mhgd": "multi-head graph distillation (MHGD): pairs, heads, layers, controls",
    "vit": "attention copy and distillation of vision transformers, fine-tuning and from scratch",
}


def family(recipe: str) -> str:
    """The family of a recipe."""
    return recipe.partition("-")[0]


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
