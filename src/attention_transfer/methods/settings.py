"""What the type of a setting promises and nothing but a check keeps, where a record or a caller says something else."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from attention_transfer.errors import InputError


def check_settings(described: Any) -> None:
    """Refuse a word that is none of a setting's choices, and a fraction where a setting counts something.

    Args:
        described: a dataclass with its values.

    Raises:
        ValueError: for such a value; says which ones there are.
    """
    types = _types(type(described))
    for name in (field.name for field in fields(described)):
        value, kind = getattr(described, name), types[name]
        choices = tuple(_choices(kind))
        if isinstance(value, str) and choices and value not in choices:
            raise InputError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")
        if kind is int and (not isinstance(value, int) or isinstance(value, bool)):
            raise InputError(f"{name} must be a whole number, not {value!r}")


@cache
def _types(described: type) -> Mapping[str, Any]:
    return get_type_hints(described)


def _choices(kind: Any) -> Iterator[str]:
    """The words that a type allows; none where it allows any."""
    if get_origin(kind) is Literal:
        yield from cast("tuple[str, ...]", get_args(kind))
        return
    if kind is not str:
        members = [member for member in get_args(kind) if member is not type(None)]
        # A union of words with free text, or a container of words, says nothing of the value itself.
        if members and all(get_origin(member) is Literal for member in members):
            for member in members:
                yield from _choices(member)
