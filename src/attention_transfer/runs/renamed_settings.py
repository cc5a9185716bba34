"""Renamed settings: runs recorded under the old names stay readable.

>>> renamed = (Renamed("training", "batch", "batch_size", since="1.0"),)
>>> with_current_names({"training": {"batch": 64, "epochs": 3}}, "experiment.json", renamed)
{'training': {'batch_size': 64, 'epochs': 3}}
"""

from dataclasses import dataclass
from typing import Any, cast

from attention_transfer.errors import InputError
from attention_transfer.files.json_fields import Json, is_object


@dataclass(frozen=True)
class Renamed:
    """One setting under two names.

    Args:
        section: the object of `experiment.json` in which it stands (`training`, `data`, …), `""` for the experiment
            itself, or the key of a method.
        old: its name in runs of before.
        new: its name now.
        since: the version that has the new name first; CONTRIBUTING.md says for how long the old one is read.
    """

    section: str
    old: str
    new: str
    since: str


RENAMED: tuple[Renamed, ...] = ()


def with_current_names(experiment: Json, source: str, renamed: tuple[Renamed, ...] | None = None) -> Json:
    """An experiment under today's names; values are unchanged.

    Args:
        experiment: as a file holds it.
        source: where it is from, for messages.
        renamed: which settings; those of `RENAMED` if None.

    Raises:
        InputError: for a setting under both names.
    """
    for each in RENAMED if renamed is None else renamed:
        experiment = _renamed(experiment, each, source)
    return experiment


def _renamed(experiment: Json, setting: Renamed, source: str) -> Json:
    if not setting.section:
        return _in(experiment, setting, source)
    changed = dict(experiment)
    if is_object(experiment.get(setting.section)):
        changed[setting.section] = _in(experiment[setting.section], setting, source)
    methods = experiment.get("methods")
    if isinstance(methods, list):
        changed["methods"] = [
            _in(method, setting, source) if is_object(method) and method.get("name") == setting.section else method
            for method in cast("list[Any]", methods)
        ]
    return changed


def _in(settings: Json, setting: Renamed, source: str) -> Json:
    if setting.old not in settings:
        return settings
    if setting.new in settings:
        raise InputError(
            f"{source} has both '{setting.old}' and '{setting.new}', which are one setting: remove '{setting.old}'"
        )
    # Rebuilt in order, so that the file reads as it did.
    return {setting.new if name == setting.old else name: value for name, value in settings.items()}
