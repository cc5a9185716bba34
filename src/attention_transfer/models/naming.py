"""How models are written: `LIBRARY:NAME(argument=value, …)@WEIGHTS`, read without running anything."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attention_transfer.errors import InputError
from attention_transfer.models.arguments import check_arguments


@dataclass(frozen=True)
class Name:
    """A model's name in its parts.

    Args:
        library: `timm`, `torchvision`, `hf`, or what stands before the colon; empty for networks of ours.
        inner: what that library calls it.
        arguments: for its constructor (for `hf`, its configuration), in the order in which they were written.

    Raises:
        ValueError: for an argument that does more than shape a network; so no name carries one, wherever it is from.
    """

    library: str
    inner: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        check_arguments(self.library, self.inner, self.arguments)


def split_weights(spec: str) -> tuple[str, str | None]:
    """The name in a model's specification, and what follows its `@`; None where there is none.

    Args:
        spec: such as `NAME`, `NAME(argument="a@b")@FILE` or `NAME@pretrained`.
    """
    _, end = _span(spec)
    name, separator, source = spec[end:].partition("@")
    return spec[:end] + name, source if separator else None


def split_key(source: str) -> tuple[Path, str | None]:
    """A file of weights, and the key in it that follows its `#`; None where there is none.

    A file that is called so itself, `#` included, is meant.

    Args:
        source: such as `FILE` or `FILE#KEY`.
    """
    whole = Path(source).expanduser()
    for place in [index for index, letter in enumerate(source) if letter == "#"][::-1]:
        if whole.exists():
            break
        if Path(source[:place]).expanduser().exists():
            return Path(source[:place]).expanduser(), source[place + 1 :]
    else:
        file, hash_, key = source.rpartition("#")
        if hash_ and not whole.exists():
            return Path(file).expanduser(), key
    return whole, None


def parse_name(name: str) -> Name:
    """The parts of a name, which need not exist.

    Args:
        name: as `split_weights` gives it.

    Raises:
        ValueError: for arguments that are not `key=value` with literal values, or that are said elsewhere.
    """
    start, end = _span(name)
    if not end:
        start = len(name)
    library, colon, inner = name[:start].partition(":")
    if not colon:
        library, inner = "", library
    # A local folder of transformers may be called anything.
    if library == "hf" and Path(name.partition(":")[2]).expanduser().exists():
        return Name(library, name.partition(":")[2])
    if end and end != len(name):
        raise InputError(f"nothing but @WEIGHTS can follow the arguments of {name!r}")
    if not end and "(" in inner and library != "hf":
        raise InputError(f"the arguments of {name!r} cannot be read: write NAME(key=value, …), closed by a parenthesis")
    return Name(library, inner.strip(), _arguments(name, name[start:]))


def written(arguments: Mapping[str, Any]) -> str:
    """Arguments as Python writes them in a call, each preceded by a comma."""
    return "".join(f", {key}={value!r}" for key, value in arguments.items())


def _span(text: str) -> tuple[int, int]:
    """Where the arguments after a name begin and end, parentheses included; zeros where there are none."""
    name = text[: text.find("@")] if "@" in text else text
    first = name.find("(")
    # A folder's own name may end with a parenthesis too.
    for start in [first, *(place + 1 for place in range(len(name)) if name[place : place + 2] == ")(")]:
        for end in range(start + 1, len(text) + 1):
            ends = text[end - 1] == ")" and text[end : end + 1] in ("", "@")
            if start >= 0 and ends and _is_call(text[start:end]):
                return start, end
    return 0, 0


def _is_call(parentheses: str) -> bool:
    try:
        call = ast.parse(f"f{parentheses}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name)


def _arguments(name: str, parentheses: str) -> dict[str, Any]:
    if not parentheses:
        return {}
    call = ast.parse(f"f{parentheses}", mode="eval").body
    assert isinstance(call, ast.Call)
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise InputError(f"the arguments of {name!r} must all be written key=value")
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        key = str(keyword.arg)
        try:
            value = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            # Keys of dictionaries and members of sets may be what Python cannot hash.
            raise InputError(
                f"{key}={ast.unparse(keyword.value)} of {name!r} is no plain value: give a number, a string in quotes, "
                "True, False, None, or a tuple, list or dictionary of these"
            ) from error
        if key in found:
            raise InputError(f"{key} is given twice in {name!r}")
        found[key] = value
    return found
