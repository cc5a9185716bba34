"""Type-checked fields of JSON objects from untrusted sources.

>>> fields = Fields({"epochs": 30, "recipe": "digits"}, "run/experiment.json")
>>> fields.whole("epochs", least=1), fields.text("recipe"), fields.number("seed")
(30, 'digits', None)
>>> fields.number("recipe")
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: 'recipe' of run/experiment.json must be a number, not 'digits': ...
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from attention_transfer.errors import InputError

Json = dict[str, Any]

_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Fields:
    """The values of an object, by name.

    Args:
        values: as JSON holds them.
        source: where they are from, for messages.
    """

    values: Mapping[str, Any]
    source: str

    def take(
        self, name: str, wanted: str, is_right: Callable[[Any], bool], *, needed: bool = False, nullable: bool = True
    ) -> Any:
        """A value; None where it is null or missing.

        Args:
            name: of the field.
            wanted: what it must be, in words.
            is_right: whether a value is that.
            needed: refuse the field's absence.
            nullable: whether it may be null.

        Raises:
            ValueError: it is something else, or missing though it is needed.
        """
        value = self.values.get(name)
        if value is None and not needed and (nullable or name not in self.values):
            return None
        if value is None or not is_right(value):
            shown = repr(value) if len(repr(value)) <= _SHOWN else f"{repr(value)[:_SHOWN]}…"
            came = f"not {shown}" if name in self.values else "and is missing"
            raise InputError(f"{name!r} of {self.source} must be {wanted}, {came}: the file was changed by hand")
        return value

    def text(self, name: str, *, needed: bool = False) -> str | None:
        """A text without control characters, which are in no name or path of ours."""
        wanted = "a text without control characters" if isinstance(self.values.get(name), str) else "a text"
        return self.take(name, wanted, is_text, needed=needed)

    def whole(self, name: str, least: int = 0, *, needed: bool = False) -> int | None:
        """A whole number."""
        return self.take(name, f"a whole number, at least {least}", lambda v: is_whole(v, least), needed=needed)

    def number(self, name: str, *, needed: bool = False) -> float | None:
        """A number."""
        return self.take(name, "a number", is_number, needed=needed)

    def inner(self, name: str, *, needed: bool = False, nullable: bool = True) -> "Fields | None":
        """An object inside this one."""
        value = self.take(name, "an object with names and values", is_object, needed=needed, nullable=nullable)
        return None if value is None else Fields(cast("Mapping[str, Any]", value), f"{name!r} in {self.source}")

    def items(
        self, name: str, wanted: str, is_right: Callable[[Any], bool], *, nullable: bool = True
    ) -> list[Any] | None:
        """A list of values of one kind."""
        return self.take(name, wanted, lambda v: is_list(v, is_right), nullable=nullable)


def is_text(value: object) -> bool:
    """Whether a value is a text that can be printed and be part of a path."""
    # Cc are control characters, which could steer a terminal; Cs are halves of a character, which UTF-8 cannot write.
    return isinstance(value, str) and all(unicodedata.category(each) not in ("Cc", "Cs") for each in value)


def is_whole(value: object, least: int = 0) -> bool:
    """Whether a value is a whole number that is large enough; true and false are none."""
    # bool is a subclass of int in Python, but true is no number in JSON.
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Whether a value is a number; true and false are none. JSON holds only finite ones."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_object(value: object) -> bool:
    """Whether a value is an object of JSON."""
    return isinstance(value, dict)


def is_list(value: object, is_right: Callable[[Any], bool]) -> bool:
    """Whether a value is a list of values of one kind."""
    return isinstance(value, list) and all(is_right(each) for each in cast("list[Any]", value))
