"""What settings are called and which values they have, kept where a record or a caller says something else.

>>> fit("Example", "sizes", tuple[int, ...], [1, 2])
(1, 2)
>>> from attention_transfer import AttentionTransfer
>>> try:
...     AttentionTransfer(wieght=10)
... except SettingError as error:
...     print(str(error).partition("?")[0])
unknown setting 'wieght' of AttentionTransfer: did you mean 'weight'
"""

import inspect
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from attention_transfer.errors import InputError

_UNFIT = object()
_NAMES = {float: "a number", int: "a whole number", bool: "True or False", str: "a string", Path: "a path"}
_PLURALS = {float: "numbers", int: "whole numbers", bool: "True or False", str: "strings", Path: "paths"}
# What papers and other libraries call a setting; the first of these that a method has is meant.
_ALSO_CALLED = {
    "alpha": ("target_weight", "weight"),
    "beta": ("other_weight", "weight"),
    "gamma": ("weight",),
    "coef": ("weight",),
    "lam": ("weight",),
    "lambda_": ("weight",),
    "scale": ("weight",),
    "t": ("temperature",),
    "tau": ("temperature",),
    "p": ("power",),
    "layers": ("student_layers", "student_layer"),
    "mode": ("form",),
}


class SettingError(InputError, TypeError):
    """A setting that does not exist, or a value that it cannot have; a TypeError too, as Python's own refusals are."""


class Settings:
    """A frozen dataclass of settings: unknown names are refused with the known ones, values are held to their types.

    Numbers of numpy become Python's, lists become tuples, and text becomes a path where one is wanted; an int stays one
    where a float is wanted.

    Raises:
        SettingError: for an unknown name, or a value of another type; says what is wanted.
    """

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Refuse names of settings that do not exist."""
        check_names(cls, len(args), settings)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        owner, types = type(self).__name__, _types(type(self))
        for name in (field.name for field in fields(cast(Any, self))):
            value = getattr(self, name)
            fitted = fit(owner, name, types.get(name, Any), value)
            if fitted is not value:
                # As the dataclass itself assigns where it is frozen.
                object.__setattr__(self, name, fitted)


def check_names(described: type, count: int, names: Collection[str]) -> None:
    """Refuse settings that a class does not have.

    Args:
        described: whose settings they are.
        count: of values without a name.
        names: of the others.

    Raises:
        SettingError: says which there are, and which one was likely meant.
    """
    known = _accepted(described)
    if known is None:
        return
    placed = _accepted(described, by_place=True) or known
    listed = f"its settings are {', '.join(known)}"
    strange = [name for name in names if name not in known]
    if strange:
        meant = _meant(strange[0], known)
        raise SettingError(
            f"unknown setting {strange[0]!r} of {described.__name__}: "
            + (f"did you mean {meant!r}? {listed[0].upper()}{listed[1:]}" if meant else listed)
        )
    if count > len(placed):
        raise SettingError(
            f"{described.__name__} was given {count} values and takes {len(placed)}: its settings are "
            f"{', '.join(placed)}"
        )


def require(holds: bool, name: str, wanted: str, value: object) -> None:
    """Refuse a setting.

    Args:
        holds: whether the value is valid.
        name: name of the setting.
        wanted: what it must be, in words.
        value: the value that came.

    Raises:
        ValueError: it does not hold.
    """
    if not holds:
        raise InputError(f"{name} must be {wanted}, not {value}")


def fit(owner: str, name: str, kind: Any, value: Any) -> Any:
    """A value as a type wants it; of a type that says nothing checkable, as it is.

    Args:
        owner: whose setting it is, for the message.
        name: of the setting.
        kind: as annotated.
        value: as given.

    Raises:
        SettingError: for a value that is none of that type; says what is, and how to write it.
    """
    fitted = _fit(kind, value)
    if fitted is _UNFIT:
        raise SettingError(f"{owner}: {name} must be {_wanted(kind)}, not {_shown(value)}{_hint(name, kind, value)}")
    return fitted


def _fit(kind: Any, value: Any) -> Any:
    """The value, `_UNFIT` if it is none of the kind."""
    if isinstance(value, np.generic):
        value = value.item()
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        found = (_fit(member, value) for member in get_args(kind))
        return next((each for each in found if each is not _UNFIT), _UNFIT)
    if origin is Literal:
        # Of one type, for True is no 1; a member of an enumeration of words is a word.
        alike = [c for c in get_args(kind) if type(c) is type(value) or (isinstance(c, str) and isinstance(value, str))]
        return next((choice for choice in alike if choice == value), _UNFIT)
    if origin is tuple:
        return _fit_each(get_args(kind), value)
    if kind in (None, NoneType):
        return value if value is None else _UNFIT
    if kind in (float, int):
        return _fit_number(kind, value)
    if kind in (bool, str):
        return value if isinstance(value, kind) else _UNFIT
    if kind is Path:
        return Path(value) if isinstance(value, str | Path) else _UNFIT
    if isinstance(kind, type) and issubclass(kind, Settings):
        return value if isinstance(value, kind) else _UNFIT
    return value


def _fit_number(kind: type, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        return _UNFIT
    if isinstance(value, int | float):
        return value
    return int(cast(Any, value)) if kind is int else float(value)


def _fit_each(kinds: tuple[Any, ...], value: Any) -> Any:
    """A tuple of values, each of its kind; lists and ranges are as good as tuples."""
    if not isinstance(value, tuple | list | range):
        return _UNFIT
    values = cast("tuple[Any, ...]", tuple(value))
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    if len(kinds) != len(values):
        return _UNFIT
    fitted = tuple(_fit(kind, each) for kind, each in zip(kinds, values, strict=True))
    if any(each is _UNFIT for each in fitted):
        return _UNFIT
    same = type(value) is tuple and all(a is b for a, b in zip(fitted, values, strict=True))
    return value if same else fitted


# ---------------------------------------------------------------- words


def _wanted(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_wanted(member) for member in get_args(kind)))
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a tuple of {_content(get_args(kind))}"
    if kind in (None, NoneType):
        return "None"
    return _NAMES.get(kind) or f"a {kind.__name__}"


def _content(kinds: tuple[Any, ...]) -> str:
    """What a tuple holds, in words."""
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        inner = kinds[0]
        if get_origin(inner) is tuple:
            return f"tuples of {_content(get_args(inner))}"
        return _PLURALS.get(inner) or _wanted(inner)
    if len(set(kinds)) == 1 and kinds[0] in _PLURALS:
        return f"{len(kinds)} {_PLURALS[kinds[0]]}"
    return " and ".join(map(_wanted, kinds))


def _shown(value: Any) -> str:
    """A value in a message: short, whatever it is."""
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, np.generic):
        return f"a value of type {type(value).__name__} and shape {tuple(shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if is_dataclass(value) or callable(value):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _hint(name: str, kind: Any, value: Any) -> str:
    """How it was likely meant."""
    if hasattr(value, "detach") and _fit(kind, 1) is not _UNFIT:
        return ": give a plain number, such as float(value)"
    for meant in _readings(value):
        fitted = _fit(kind, meant)
        if fitted is not _UNFIT:
            return f": write {name}={fitted!r}"
    return ""


def _readings(value: Any) -> Iterator[Any]:
    """What somebody may have meant by a value."""
    if isinstance(value, str):
        for read in (int, float):
            try:
                number = read(value)
            except ValueError:
                continue
            if math.isfinite(number):
                yield number
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    if isinstance(value, tuple | list) and len(cast("list[Any]", value)) == 1:
        yield value[0]
    if isinstance(value, str | int):
        yield (value,)


def _meant(name: str, known: Collection[str]) -> str | None:
    """The setting that somebody who wrote another name most likely meant."""
    called = [each for each in _ALSO_CALLED.get(name.lower(), ()) if each in known]
    return next(iter(called or get_close_matches(name, list(known), n=1)), None)


@cache
def _accepted(described: type, *, by_place: bool = False) -> tuple[str, ...] | None:
    """Names that a class can be called with, or those whose values need no name; None where it takes any."""
    parameters = list(inspect.signature(described.__init__).parameters.values())[1:]
    if any(each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in parameters):
        return None
    return tuple(each.name for each in parameters if not by_place or each.kind is not each.KEYWORD_ONLY)


@cache
def _types(described: type) -> Mapping[str, Any]:
    try:
        return get_type_hints(described)
    except NameError:
        # Of somebody's own method, whose annotations are for a type checker only.
        return {}
