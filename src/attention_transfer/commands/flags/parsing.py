"""Records of flags from words, by their types."""

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from attention_transfer.commands import PROGRAM
from attention_transfer.commands.flags.flag import RENAMED, texts_of
from attention_transfer.experiment import Data

Record = TypeVar("Record")
_REGISTRY = ConstructorRegistry()
_NAMES = RENAMED["Data"]


@_REGISTRY.struct_rule
def _data(described: StructTypeInfo) -> StructConstructorSpec | None:
    """Data under the names of its flags: its `name` is --data, its `root` --data-root."""
    if described.type is not Data:
        return None
    hints, texts, given = get_type_hints(Data), texts_of(Data), described.default
    described_fields = tuple(
        StructFieldSpec(
            _NAMES.get(each.name, each.name),
            hints[each.name],
            getattr(given, each.name) if isinstance(given, Data) else _default(each),
            texts.get(each.name),
        )
        for each in fields(Data)
    )
    fields_of = {_NAMES.get(each.name, each.name): each.name for each in fields(Data)}

    def made(**values: Any) -> Data:
        return Data(**{fields_of[name]: value for name, value in values.items()})

    return StructConstructorSpec(made, described_fields)


def _default(described: Any) -> Any:
    return described.default if described.default is not MISSING else tyro.MISSING


def parsed(record: type[Record], command: str, words: Sequence[str], default: Record | None = None) -> Record:
    """The record that words make.

    Args:
        record: a dataclass of flags.
        command: what was called, for messages.
        words: as typed.
        default: gives values of flags that are not among the words; the record's own if None.
    """
    return cast(Any, tyro).cli(record, **_options(command, words, default))


def parsed_in_part(record: type[Record], command: str, words: Sequence[str]) -> tuple[Record, list[str]]:
    """The record that some of the words make, and the others."""
    return cast(Any, tyro).cli(record, **_options(command, words, None), return_unknown_args=True)


def _options(command: str, words: Sequence[str], default: object) -> dict[str, Any]:
    options: dict[str, Any] = {
        "prog": f"{PROGRAM} {command}",
        "args": list(words),
        "config": (tyro.conf.AvoidSubcommands, tyro.conf.HelptextFromCommentsOff),
        "registry": _REGISTRY,
    }
    return options if default is None else options | {"default": default}
