"""Experiments as JSON, in both directions."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from attention_transfer.errors import InputError
from attention_transfer.experiment.experiment import Experiment
from attention_transfer.methods import METHODS, Method


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Every field, as JSON holds it; methods carry their key as `name`."""
    return cast(dict[str, Any], _to_json(experiment))


def from_json(content: Mapping[str, Any]) -> Experiment:
    """The experiment that `to_json` wrote.

    Raises:
        ValueError: for a field or a method that does not exist; it may come from another version.
    """
    return cast(Experiment, _from_json(Experiment, content))


def _to_json(value: Any) -> Any:
    if isinstance(value, Method):
        return {"name": value.key} | _fields_to_json(value)
    if is_dataclass(value):
        return _fields_to_json(value)
    if isinstance(value, tuple):
        return [_to_json(item) for item in cast(tuple[Any, ...], value)]
    return str(value) if isinstance(value, Path) else value


def _fields_to_json(value: Any) -> dict[str, Any]:
    hints = get_type_hints(type(value))
    return {f.name: _to_json(_as(hints[f.name], getattr(value, f.name))) for f in fields(value)}


def _as(kind: Any, value: Any) -> Any:
    """Whole numbers of a float field as floats: 1 and 1.0 are the same setting and must read the same."""
    return float(value) if kind is float and isinstance(value, int) else value


def _from_json(kind: Any, value: Any) -> Any:
    """Read a value of a type: dataclasses, methods by name, tuples, optional ones; the rest as it is."""
    if get_origin(kind) in (Union, UnionType):
        kinds = [each for each in get_args(kind) if each is not type(None)]
        return None if value is None else _from_json(kinds[0], value)
    if kind is Method:
        if value["name"] not in METHODS:
            raise InputError(f"there is no method {value['name']!r}; there are {', '.join(METHODS)}")
        return _from_json(METHODS[value["name"]], {k: v for k, v in value.items() if k != "name"})
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        known = {f.name for f in fields(kind)}
        strange = sorted(set(value) - known)
        if strange:
            raise InputError(
                f"{cast(type, kind).__name__} has no {', '.join(strange)}; was it written by another version?"
            )
        return cast(Any, kind)(**{name: _from_json(hints[name], item) for name, item in value.items()})
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        each = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else inner
        return tuple(_from_json(one, item) for one, item in zip(each, value, strict=True))
    if kind is Path:
        return Path(value)
    return _as(kind, value)
