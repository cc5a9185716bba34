"""From words of a command line to flags and values; what is no flag is refused with the one that was likely meant."""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attention_transfer.commands.flags.flag import Flag
from attention_transfer.errors import InputError

# What people type, from other programs' habit.
ALIASES = {
    "lr": "learning-rate",
    "wd": "weight-decay",
    "bs": "batch-size",
    "batch": "batch-size",
    "epoch": "epochs",
    "workers": "num-workers",
    "opt": "optimizer",
    "optimiser": "optimizer",
    "warmup": "warmup-epochs",
    "scheduler": "schedule",
    "min-lr": "min-learning-rate",
    "clip-grad": "clip-gradient-norm",
    "dataset": "data",
    "data-dir": "data-root",
    "img-size": "image-size",
    "jitter": "colour-jitter",
    "color-jitter": "colour-jitter",
    "method": "methods",
    "output": "run-folder",
    "output-dir": "run-folder",
}
HELP = ("-h", "--help", "--help-all")
_UNREAD = object()


def without_aliases(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Words with the flags' own names for those of other programs.

    Args:
        words: as typed.
        known: names of flags; an alias stands only for one of them, and never where it is a name itself.
    """
    return [_own(word, known) for word in words]


def _own(word: str, known: Collection[str]) -> str:
    _, equals, value = word.partition("=")
    meant = ALIASES.get(name_of(word)) if word.startswith("--") and name_of(word) not in known else None
    return f"--{meant}{equals}{value}" if meant in known else word


def name_of(word: str) -> str:
    """A flag's name, of `--NAME` or `--NAME=VALUE`."""
    return word.removeprefix("--").partition("=")[0].replace("_", "-")


def split(words: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Words before the first flag, and each flag's name with its words."""
    free: list[str] = []
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            _, equals, value = word.partition("=")
            found.append((name_of(word), [value] if equals else []))
        else:
            (found[-1][1] if found else free).append(word)
    return free, found


def check_names(words: Sequence[str], flags: Mapping[str, Flag], shown_by: str) -> None:
    """Refuse flags that do not exist, and choices that a flag has not.

    Args:
        words: as typed, aliases replaced.
        flags: by name.
        shown_by: what shows all flags, for the message.

    Raises:
        InputError: naming the nearest one.
    """
    negated = {flag.negated for flag in flags.values() if flag.switch}
    for name, values in split(words)[1]:
        if name in negated or f"--{name}" in HELP:
            continue
        if name not in flags:
            hint = nearest(name, flags)
            meant = f"did you mean {hint}?" if hint else f"{shown_by} shows all"
            raise InputError(f"there is no flag --{name}; {meant}")
        check_values(flags[name], values)


def nearest(name: str, flags: Collection[str]) -> str:
    """Flags that somebody who wrote another name most likely meant, with dashes; empty if none is near."""
    near = get_close_matches(name, [*flags, *(alias for alias in ALIASES if ALIASES[alias] in flags)], n=2, cutoff=0.65)
    near = list(dict.fromkeys(ALIASES.get(each, each) if each not in flags else each for each in near))
    near = near[:1] if near and name not in near and _is_slip(name, near[0]) else near
    near = near or [each for each in flags if each.endswith((f".{name}", f"-{name}"))][:3]
    return " or ".join(f"--{each}" for each in near)


def _is_slip(name: str, near: str) -> bool:
    return bool(get_close_matches(name, [near], cutoff=0.85))


def check_values(flag: Flag, values: Sequence[str]) -> None:
    """Refuse words that a flag cannot have: too few, no number where one is wanted, or none of its choices.

    Raises:
        InputError: saying which there are.
    """
    wanted = int(flag.count) if flag.count.isdigit() and flag.kind != "other" and not flag.switch else 0
    if len(values) < wanted and not (flag.optional and list(values) == ["None"]):
        came = f"only {' '.join(values)!r} follows" if values else "nothing follows"
        raise InputError(f"--{flag.name} needs {'a value' if wanted == 1 else f'{wanted} values'}, and {came} it")
    for value in values if flag.count != "1" else values[:1]:
        if flag.optional and value == "None":
            continue
        if flag.kind == "choice" and value not in flag.choices:
            near = get_close_matches(value, flag.choices, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"--{flag.name} cannot be {value!r}: {meant}It is one of {', '.join(flag.choices)}")
        if flag.kind in ("int", "float") and _value(flag, value) is _UNREAD:
            wanted = "a whole number" if flag.kind == "int" else "a number"
            none = " or None" if flag.optional else ""
            raise InputError(f"--{flag.name} must be {wanted}{none}, not {value!r}")


def read(flags: Mapping[str, Flag], words: Sequence[str]) -> dict[str, Any] | None:
    """Values by the flags' paths, as JSON holds them; None where only a parser of types can say.

    Args:
        flags: by name.
        words: as typed, aliases replaced.
    """
    switched_off = {flag.negated: flag for flag in flags.values() if flag.switch}
    free, found = split(words)
    values: dict[str, Any] = {}
    for name, given in found:
        if name in switched_off and not given:
            values[switched_off[name].path] = False
            continue
        value = _read(flags[name], given) if name in flags else _UNREAD
        if value is _UNREAD:
            return None
        values[flags[name].path] = value
    return None if free else values


def _read(flag: Flag, words: Sequence[str]) -> Any:
    if flag.switch:
        return True if not words else _UNREAD
    if flag.optional and list(words) == ["None"]:
        return None
    each = [_value(flag, word) for word in words]
    if any(value is _UNREAD for value in each):
        return _UNREAD
    if flag.count == "1":
        return each[0] if len(each) == 1 else _UNREAD
    return each if flag.count in ("*", str(len(each))) else _UNREAD


def _value(flag: Flag, word: str) -> Any:
    try:
        if flag.kind == "int":
            return int(word)
        if flag.kind == "float":
            return float(word)
    except ValueError:
        return _UNREAD
    if flag.kind == "bool":
        return {"True": True, "False": False}.get(word, _UNREAD)
    if flag.kind == "path":
        return str(Path(word))
    return word if flag.kind == "str" or word in flag.choices else _UNREAD
