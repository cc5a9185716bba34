"""How flags are shown: groups, a line each; or with all that is said of them."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attention_transfer.commands.flags.flag import Flag

WIDTH = 120
_LEFT, _VALUE = 38, 16
# Of interest where a recipe sets them; --help-all shows them always.
_SELDOM = {
    *("data.auto_augment", "data.colour_jitter", "data.random_erasing", "data.mixup", "data.cutmix"),
    *("data.label_smoothing", "data.train_classes", "data.train_fraction", "data.train_sample", "data.split_seed"),
    *("data.decoding", "data.background", "teacher_mean", "teacher_std", "match_classes"),
    *("optimisation.betas", "optimisation.layer_decay", "optimisation.cosine_after_warmup"),
    *("optimisation.hold_without_gradient", "optimisation.clip_gradient_norm", "optimisation.min_learning_rate"),
    *("training.channels_last", "training.checkpoint_every_steps", "training.ema_decay", "training.snapshot_epochs"),
}
_RUN = ("seed", "teacher_cache", "run_folder", "tiny")


def shown(flag: Flag, value: Any, methods: Sequence[str]) -> bool:
    """Whether a flag belongs in the short help of a recipe with these methods."""
    if flag.path.startswith("methods."):
        return flag.path.split(".")[1] in methods
    return flag.path not in _SELDOM or value != flag.default


def group_of(flag: Flag) -> str:
    """The heading that a flag of `train` stands under."""
    section, dot, _ = flag.path.partition(".")
    if dot:
        return {"methods": "methods", "optimisation": "optimisation"}.get(section, section)
    return "run" if section in _RUN else "networks and methods"


def grouped(flags: Iterable[Flag]) -> dict[str, list[Flag]]:
    """Flags under their headings."""
    order = ("networks and methods", "methods", "data", "optimisation", "training", "run")
    found: dict[str, list[Flag]] = {title: [] for title in order}
    for flag in flags:
        found.setdefault(group_of(flag), []).append(flag)
    return {title: members for title, members in found.items() if members}


def short_lines(flags: Iterable[Flag], values: Mapping[str, Any]) -> list[str]:
    """A line for each: name, value and the first clause of what it means."""
    return [
        _cut(f"  {_left(flag):<{_LEFT}} {_cut(_said(flag, values), _VALUE):<{_VALUE}} {flag.text}") for flag in flags
    ]


def long_lines(flags: Iterable[Flag], values: Mapping[str, Any]) -> list[str]:
    """All that is said of each."""
    lines: list[str] = []
    for flag in flags:
        said = _said(flag, values)
        lines.append(f"  {_left(flag)}{f'  ({said})' if said else ''}")
        choices = f" One of {', '.join(flag.choices)}." if flag.choices else ""
        lines += textwrap.wrap(flag.text + choices, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines


def _left(flag: Flag) -> str:
    if flag.positional:
        return flag.name.upper()
    kind = "" if flag.switch else f" {_kind(flag)}"
    return f"--{flag.name}{kind}{' ...' if flag.count != '1' else ''}"


def _kind(flag: Flag) -> str:
    choices = "|".join(flag.choices)
    if choices and len(f"--{flag.name} {choices}") <= _LEFT:
        return choices
    return "NUMBERS" if flag.kind == "other" else flag.kind.upper()


def _said(flag: Flag, values: Mapping[str, Any]) -> str:
    value = values.get(flag.path, flag.default)
    if flag.positional or (flag.switch and not value):
        return ""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _cut(text: str, width: int = WIDTH) -> str:
    return text.rstrip() if len(text) <= width else f"{text[: width - 1].rstrip()}…"
