"""Makes the index from the code."""

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from attention_transfer.commands.flags.flag import flags_of_fields
from attention_transfer.commands.index.reading import SECTIONS
from attention_transfer.commands.train import train_flags
from attention_transfer.data import DATA
from attention_transfer.experiment import Experiment, to_json
from attention_transfer.methods import METHODS
from attention_transfer.models import MODELS
from attention_transfer.recipes import RECIPES
from attention_transfer.recipes.tables import TABLES

_COMMANDS = (
    *("pretrain", "evaluate", "compare", "sweep", "reproduce", "suggest-weight", "probe", "class-maps"),
    *("batch-graph", "attention-maps", "links", "localise", "cost", "quickstart"),
)


def made() -> str:
    """The index as text, a line an entry."""
    recipes = {name: recipe() for name, recipe in RECIPES.items()}
    used = {method.key for recipe in recipes.values() for method in recipe.methods}
    methods = {key: method for key, method in METHODS.items() if key in used}
    usual = to_json(Experiment(recipe="", student=""))
    defaults = {key: _of_method(to_json(_with(usual, method()))) for key, method in methods.items()}
    content: dict[str, Any] = {
        "experiment": usual,
        "methods": {key: {"default": default} for key, default in defaults.items()},
        "models": list(MODELS),
        "data": {name: _first_line(source) for name, source in DATA.items()},
        "tables": {name: table.title for name, table in TABLES.items()},
        "train": [flag.to_json() for flag in train_flags(methods)],
        "commands": {name: _command(name) for name in _COMMANDS},
        "recipes": {name: _recipe(name, recipe, usual, defaults) for name, recipe in recipes.items()},
    }
    return _written(content)


def _with(usual: Mapping[str, Any], method: Any) -> Experiment:
    return Experiment(recipe=usual["recipe"], student=usual["student"], methods=(method,))


def _of_method(experiment: Mapping[str, Any]) -> dict[str, Any]:
    return experiment["methods"][0]


def _recipe(
    name: str, recipe: Experiment, usual: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    plain, tiny = (_shortened(to_json(each), defaults) for each in (recipe, recipe.tiny()))
    changes = {path: value for path, value in plain.items() if value != _flat(usual)[path]}
    of_tiny = {path: value for path, value in tiny.items() if value != plain[path]}
    changes.pop("recipe")
    return {"text": _first_line(RECIPES[name]), "changes": changes, "tiny": of_tiny}


def _shortened(experiment: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By path, with what methods have changed alone."""
    methods = [
        {name: value for name, value in each.items() if name == "name" or value != defaults[each["name"]][name]}
        for each in experiment["methods"]
    ]
    return _flat(experiment) | {"methods": methods}


def _flat(experiment: Mapping[str, Any]) -> dict[str, Any]:
    top = {name: value for name, value in experiment.items() if name not in SECTIONS}
    return top | {f"{part}.{name}": value for part in SECTIONS for name, value in experiment[part].items()}


def _command(name: str) -> dict[str, Any]:
    flags = import_module(f"attention_transfer.commands.{name.replace('-', '_')}").Flags
    return {
        "text": (flags.__doc__ or "").partition("\n\n    Args:")[0].strip(),
        "flags": [flag.to_json() for flag in flags_of_fields(flags)],
    }


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _written(content: Mapping[str, Any]) -> str:
    rooms: list[str] = []
    for room, entries in content.items():
        if isinstance(entries, dict):
            rows = ",\n".join(f"{_json(key)}: {_json(value)}" for key, value in entries.items())
            rooms.append(f"{_json(room)}: {{\n{rows}\n}}")
        else:
            rows = ",\n".join(map(_json, entries))
            rooms.append(f"{_json(room)}: [\n{rows}\n]")
    return "{\n" + ",\n".join(rooms) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
