"""Checks of a run's JSON files, field by field.

>>> check_row({"epoch": 1, "test": {"top1": 71.5}}, "line 1 of metrics.jsonl")
{'epoch': 1, 'test': {'top1': 71.5}}
>>> check_row({"epoch": 0}, "line 1 of metrics.jsonl")
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: 'epoch' of line 1 of metrics.jsonl must be a whole number, at least 1, not 0: ...
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any, cast

from attention_transfer.errors import InputError
from attention_transfer.files.json_fields import Fields, Json, is_number, is_object, is_text
from attention_transfer.runs.renamed_settings import with_current_names

SNAPSHOTS = "snapshots"
_UP_TO_THE_RUN = "../../"


def own_part(folder: Path, name: str, source: str) -> Path:
    """The path of something that lies in a run, by the name that one of its files gives it.

    Args:
        folder: whose file it is: a run, or a snapshot in one, whose names may begin with `../../` and then count from
            the run.
        name: relative, with `/` between its parts.
        source: the file, for messages.

    Raises:
        ValueError: the name leads out of the run.
    """
    root, rest = folder, name
    # A snapshot may name files of its run, two folders up; nothing else may lead upwards.
    if folder.absolute().parent.name == SNAPSHOTS and name.startswith(_UP_TO_THE_RUN):
        root, rest = folder.absolute().parent.parent, name.removeprefix(_UP_TO_THE_RUN)
    parts = PurePosixPath(rest).parts
    leads_out = rest.startswith(("/", "~")) or ".." in parts or not parts or re.search(r"[\\:$]", rest) is not None
    if leads_out or not is_text(rest):
        raise InputError(
            f"{source} names {name[:80]!r} as a part of its run, and that leads out of it: it is not opened, and the "
            "file was changed by hand"
        )
    return root / rest


_SPLITS = ("train", "test", "validation", "unseen", "neighbours")
_UNAVERAGED = "unaveraged"
_NUMBERS = "numbers by name"
_IMAGES_OF = "images_of"


def check_experiment(content: Json, source: str) -> Json:
    """The content of `experiment.json` under today's names, if its fields are of their types.

    Those of methods and settings are checked where they are used.

    Raises:
        ValueError: naming the field.
    """
    content = with_current_names(content, source)
    fields = Fields(content, source)
    for name in ("recipe", "student", "teacher"):
        fields.text(name)
    fields.take(
        "seed", "a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool), nullable=False
    )
    fields.number("task_weight")
    fields.inner("pretraining")
    for name in ("data", "optimisation"):
        fields.inner(name, nullable=False)
    training = fields.inner("training", nullable=False)
    if training is not None:
        training.whole("epochs", least=1)
    for method in fields.items("methods", "a list of methods", is_object, nullable=False) or ():
        Fields(cast("Json", method), f"a method in {source}").text("name", needed=True)
    return content


def check_environment(content: Json, source: str) -> Json:
    """The content of `environment.json` (versions and hardware), if its fields are of their types.

    Raises:
        ValueError: naming the field.
    """
    starts = Fields(content, source).items("earlier", "a list of earlier starts", is_object, nullable=False) or []
    for start in (content, *starts):
        fields = Fields(cast("Json", start), source)
        for name in ("hardware", "versions"):
            fields.inner(name, nullable=False)
    return content


def check_summary(content: Json, source: str) -> Json:
    """The content of `summary.json` (results of a finished run), if its fields are of their types.

    Raises:
        ValueError: naming the field.
    """
    fields = Fields(content, source)
    for name in ("epochs", "steps", "samples_seen", "student_parameters", "teacher_parameters"):
        fields.whole(name)
    for name in ("wall_seconds", "total_seconds"):
        fields.number(name)
    for name in ("student", "student_unaveraged", "teacher"):
        measured = fields.inner(name)
        if measured is not None:
            _check_measured(measured)
    return content


def check_row(content: Json, source: str) -> Json:
    """One line of `metrics.jsonl` (metrics of an epoch), if its fields are of their types.

    Raises:
        ValueError: naming the field.
    """
    fields = Fields(content, source)
    fields.whole("epoch", least=1, needed=True)
    fields.whole("step")
    for name in ("learning_rate", "seconds"):
        fields.number(name)
    fields.text("phase")
    terms = fields.inner("terms", nullable=False)
    if terms is not None:
        for name in terms.values:
            terms.take(name, _NUMBERS, _are_numbers, nullable=False)
    _check_measured(fields)
    unaveraged = fields.inner(_UNAVERAGED)
    if unaveraged is not None:
        _check_measured(unaveraged)
    return content


def _check_measured(fields: Fields) -> None:
    for name in _SPLITS:
        fields.take(name, _NUMBERS, _are_scores)


def _are_scores(value: Any) -> bool:
    """Numbers, and what the images that they are of are called where that is not the split's name."""
    if not isinstance(value, dict):
        return False
    scores = cast("dict[str, Any]", value)
    called = scores.get(_IMAGES_OF, "")
    return isinstance(called, str) and _are_numbers({n: each for n, each in scores.items() if n != _IMAGES_OF})


def _are_numbers(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(is_number(each) for each in cast("dict[str, Any]", value).values())
