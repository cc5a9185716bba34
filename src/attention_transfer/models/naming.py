"""Names of models, `LIBRARY:NAME(argument=value, …)@WEIGHTS`: read without running anything, also from files.

>>> split_weights("resnet8@weights/resnet8.safetensors")
('resnet8', 'weights/resnet8.safetensors')
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attention_transfer.errors import InputError
from attention_transfer.files.env_paths import at_home
from attention_transfer.models.arguments import check_arguments

_LONGEST = 10_000  # letters; arguments included
_SHOWN = 200  # letters of a name in a message


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

    Raises:
        ValueError: nothing stands before or behind the `@`, or nothing at all, or more than any name has.
    """
    check_length(spec)
    _, end = _span(spec)
    name, separator, source = spec[end:].partition("@")
    name = spec[:end] + name
    if separator and not (name.strip() and source.strip()):
        side = "before" if not name.strip() else "behind"
        raise InputError(f"nothing stands {side} the @ of {quoted(spec)}: write NAME@FILE or NAME@pretrained")
    return name, source if separator else None


def check_length(spec: str) -> None:
    """Refuse words for a network that are none, or more than any name has; asked before a file of that name is.

    Raises:
        ValueError: saying which.
    """
    if not spec.strip() or len(spec) > _LONGEST:
        found = "empty" if not spec.strip() else f"{len(spec):,} letters long"
        raise InputError(f"the name of a model is {found}: write NAME, NAME@FILE, NAME@pretrained or a run folder")


def quoted(name: str) -> str:
    """A name in quotes, for a message: the beginning alone of a long one."""
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")


def split_key(source: str) -> tuple[Path, str | None]:
    """A file of weights, and the key in it that follows its `#`; None where there is none.

    A file that is called so itself, `#` included, is meant.

    Args:
        source: such as `FILE` or `FILE#KEY`.

    Raises:
        ValueError: nothing stands before the `#`, or no file can be called so.
    """
    whole = at_home(Path(source))
    if whole.exists():
        return whole, None
    for place in [index for index, letter in enumerate(source) if letter == "#"][::-1]:
        if source[:place].strip() and at_home(Path(source[:place])).exists():
            return at_home(Path(source[:place])), source[place + 1 :]
    file, hash_, key = source.rpartition("#")
    if hash_ and not file.strip("# "):
        raise InputError(f"nothing stands before the # of {quoted(source)}: write FILE#KEY")
    return (at_home(Path(file)), key) if hash_ else (whole, None)


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
    if colon and not inner.strip():
        raise InputError(f"nothing stands behind the colon of {quoted(name)}: write {library}:NAME")
    # A local folder of transformers may be called anything.
    if library == "hf" and _is_folder(name.partition(":")[2]):
        return Name(library, name.partition(":")[2])
    if end and end != len(name):
        raise InputError(f"nothing but @WEIGHTS can follow the arguments of {quoted(name)}")
    if not end and "(" in inner and library != "hf":
        raise InputError(
            f"the arguments of {quoted(name)} cannot be read: write NAME(key=value, …), closed by a parenthesis"
        )
    return Name(library, inner.strip(), _arguments(name, name[start:]))


def written(arguments: Mapping[str, Any]) -> str:
    """Arguments as Python writes them in a call, each preceded by a comma."""
    return "".join(f", {key}={value!r}" for key, value in arguments.items())


def _is_folder(inner: str) -> bool:
    """Whether what stands behind `hf:` lies on this machine, whatever it is called."""
    return bool(inner.strip()) and at_home(Path(inner)).exists()


def _span(text: str) -> tuple[int, int]:
    """Where the arguments after a name begin and end, parentheses included; zeros where there are none."""
    name = text[: text.find("@")] if "@" in text else text
    first = name.find("(")
    # A folder's own name may end with a parenthesis too.
    starts = [] if first < 0 else [first]
    for start in [*starts, *(place + 1 for place in range(len(name)) if name[place : place + 2] == ")(")]:
        for end in range(start + 1, len(text) + 1):
            ends = text[end - 1] == ")" and text[end : end + 1] in ("", "@")
            if ends and _is_call(text[start:end]):
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


PRETRAINED = "pretrained"
"""What stands behind the @ of published weights."""
_FETCHED_FROM = ("hf-hub", "hf_hub")
READ_FROM = "local-dir"


def is_source(inner: str) -> bool:
    """Whether a name of timm is a place that it reads a network's description from, and not in its list."""
    return inner.partition(":")[0] in (*_FETCHED_FROM, READ_FROM)


def is_fetched(spec: str) -> bool:
    """Whether opening a network under these words may reach the network.

    Args:
        spec: as on a command line.
    """
    name, source = split_weights(spec)
    if source == PRETRAINED:
        # What `save_pretrained` wrote lies in a folder.
        return not _is_here(parse_name(name))
    return _description_is_fetched(parse_name(name))


def check_recorded(spec: str, file: Path, *, allow_download: bool = False) -> str:
    """Words for a network that stand in a file, unless opening it would fetch something that nobody allowed.

    Args:
        spec: as it stands there.
        file: that says so, for the message.
        allow_download: by the user.

    Raises:
        ValueError: naming the file and what it asks for.
    """
    if is_fetched(spec) and not allow_download:
        raise InputError(
            f"{file} names {spec!r}, which would be downloaded, and files fetch nothing by themselves. Say the same "
            "name on the command line, or --allow-download, if you trust it"
        )
    return spec


def _description_is_fetched(name: Name) -> bool:
    if name.library == "hf":
        return not _is_here(name)
    return name.library == "timm" and name.inner.partition(":")[0] in _FETCHED_FROM


def _is_here(name: Name) -> bool:
    source, _, _ = name.inner.partition(":")
    if name.library == "timm" and source == READ_FROM:
        return True
    return name.library == "hf" and at_home(Path(name.inner)).is_dir()
