"""One flag of the command line, and the flags that the fields of a dataclass make."""

import inspect
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

# What a field is called as a flag, where that is not its own name.
RENAMED = {"Data": {"name": "data", "root": "data-root"}}
_PLAIN = {int: "int", float: "float", str: "str", bool: "bool", Path: "path"}


@dataclass(frozen=True)
class Flag:
    """A flag.

    Args:
        name: without its dashes: `learning-rate`, `at.schedule.decay`.
        path: its place in the record that it sets: `optimisation.learning_rate`.
        kind: `int`, `float`, `str`, `path`, `bool`, `choice`, or `other` for what only a parser of types reads.
        choices: of a choice.
        optional: whether `None` is a value.
        count: `1`, `*`, or how many words it takes.
        default: as JSON holds it.
        text: what it means.
        positional: whether it is written without its name.
    """

    name: str
    path: str
    kind: str
    choices: tuple[str, ...] = ()
    optional: bool = False
    count: str = "1"
    default: Any = None
    text: str = ""
    positional: bool = False

    def to_json(self) -> dict[str, Any]:
        """Fields that say something."""
        plain = {"choices": (), "optional": False, "count": "1", "default": None, "text": "", "positional": False}
        return {name: value for name, value in asdict(self).items() if name not in plain or value != plain[name]}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Flag":
        """What `to_json` wrote."""
        said: dict[str, Any] = {**content, "choices": tuple(content.get("choices", ()))}
        return Flag(**said)

    @property
    def switch(self) -> bool:
        """Whether it takes no value: `--compile`, `--no-compile`."""
        return self.kind == "bool" and not self.optional and self.count == "1"

    @property
    def negated(self) -> str:
        """How a switch is put off."""
        *owner, name = self.name.split(".")
        return ".".join([*owner, f"no-{name}"])


def flags_of_fields(record: type[Any], name: str = "", path: str = "", values: object = None) -> Iterator[Flag]:
    """The flags that a dataclass makes, those of dataclasses inside it included.

    Args:
        record: the class.
        name: put before the names, as `at.` is.
        path: put before the paths.
        values: an instance that gives the defaults; those of the class if None.
    """
    hints, texts = get_type_hints(record, include_extras=True), texts_of(record)
    for each in (each for each in fields(record) if each.metadata.get("flag", True)):
        hint, marks = _bare(hints[each.name])
        flag = RENAMED.get(record.__name__, {}).get(each.name, each.name.replace("_", "-"))
        default = each.default if each.default is not MISSING else None
        if each.default_factory is not MISSING:
            default = each.default_factory()
        default = default if values is None else getattr(values, each.name)
        if is_dataclass(hint):
            # An empty name, as marks of ours say, leaves the prefix away.
            kept = f"{name}{flag}." if not marks else name
            yield from flags_of_fields(cast("type[Any]", hint), kept, f"{path}{each.name}.", default)
            continue
        positional = any("ositional" in repr(mark) for mark in marks)
        value = list(cast("tuple[Any, ...]", default)) if isinstance(default, tuple) else default
        plain = value if value is None or isinstance(value, bool | int | float | str | list) else str(value)
        text = texts.get(each.name, "")
        yield Flag(name + flag, path + each.name, *_kind(hint), plain, text, positional)


def texts_of(record: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and its bases say of its fields, under `Args:`."""
    found: dict[str, str] = {}
    for each in reversed(record.__mro__):
        for name, text in _arguments(inspect.cleandoc(each.__doc__ or "") if each.__doc__ else ""):
            found[name] = text
    return found


def _arguments(doc: str) -> Iterator[tuple[str, str]]:
    _, _, rest = doc.partition("Args:\n")
    section = rest.partition("\n\n")[0]
    for match in re.finditer(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE):
        yield match[1], " ".join(match[2].split())


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(hint) is Annotated:
        return get_args(hint)[0], get_args(hint)[1:]
    return hint, ()


def _kind(hint: Any) -> tuple[str, tuple[str, ...], bool, str]:
    """Kind, choices, whether None is one of the values, and how many words."""
    members = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    optional = type(None) in members
    members = [each for each in members if each is not type(None)]
    if len(members) != 1:
        return "other", (), optional, "1"
    hint, count = members[0], "1"
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if len(inner) == 2 and inner[1] is Ellipsis:
            hint, count = inner[0], "*"
        elif len(set(inner)) == 1:
            hint, count = inner[0], str(len(inner))
        else:
            return "other", (), optional, "1"
    if get_origin(hint) is Literal and all(isinstance(each, str) for each in get_args(hint)):
        return "choice", get_args(hint), optional, count
    return _PLAIN.get(hint, "other"), (), optional, count
