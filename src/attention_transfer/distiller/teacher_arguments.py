"""What is said of the teachers of a distiller, and what is refused of it.

>>> from torch import nn
>>> said = TeacherArguments({"dino": nn.Linear(1, 1), "supervised": nn.Linear(1, 1)}, weights={"dino": 0.5})
>>> {name: teaching.weight for name, teaching in said.checked(torch.empty(2, 3, 8, 8)).items()}
{'dino': 0.5, 'supervised': 1.0}
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

import torch
from torch import nn

from attention_transfer.capture import Images, Where
from attention_transfer.capture.outputs import first_image
from attention_transfer.distiller.setup import ONLY, Teaching
from attention_transfer.errors import InputError
from attention_transfer.methods import Method
from attention_transfer.models import Input, Renormalise
from attention_transfer.settings import SettingError, fit


@dataclass(frozen=True)
class TeacherArguments:
    """What is said of the teachers of a distiller, as it was given.

    Args:
        teacher: one network, several by name or in a list, or None.
        student_input: how the images are normalised that come in.
        input: how a teacher expects its images.
        logits: where they are in its output.
        weights: of all methods that learn from it.
        device: where it stays.
        dropping: with which probability it is left out for an image.
    """

    teacher: Any
    student_input: Any = None
    input: Any = None
    logits: Any = None
    weights: Any = None
    device: Any = None
    dropping: Any = 0.0

    @property
    def named(self) -> dict[str, nn.Module]:
        """Teachers by name; what is no network is still to be refused."""
        return named_teachers(self.teacher)

    def checked(self, images: Images) -> dict[str, Teaching]:
        """The teachers with what is said of each.

        Args:
            images: the example.

        Raises:
            InputError: for what names no teacher, or is not of its kind.
        """
        channels = first_image(images).shape[1 if isinstance(images, torch.Tensor) else 0]
        teachers = self.named
        check_input("student_input", self.student_input, channels)
        if not teachers:
            # What is said of a teacher that there is not is checked all the same.
            check_input("teacher_input", self.input, channels)
            Renormalise(self.student_input, self.input)
        inputs, logits, weights, devices = (
            by_teacher(name, given, teachers)
            for name, given in (
                ("teacher_input", self.input),
                ("teacher_logits", self.logits),
                ("teacher_weights", self.weights),
                ("teacher_device", self.device),
            )
        )
        found: dict[str, Teaching] = {}
        for name, model in teachers.items():
            check_input("teacher_input", inputs.get(name), channels)
            device = devices.get(name)
            found[name] = Teaching(
                model,
                Renormalise(self.student_input, inputs.get(name)),
                checked_where("teacher_logits", logits.get(name)),
                _weight(name, weights.get(name, 1.0)),
                None if device is None else torch.device(device),
            )
        return found

    def checked_dropping(self) -> float:
        """With which probability teachers are left out for an image.

        Raises:
            InputError: for no probability below 1, and for one where there is a single teacher.
        """
        dropping = fit("Distiller", "teacher_dropping", float, self.dropping)
        if not 0 <= dropping < 1:
            raise InputError(f"teacher_dropping must be a probability from 0 to below 1, not {dropping:g}")
        if dropping and len(self.named) < 2:
            raise InputError("teacher_dropping leaves out some of several teachers, and there is one at most: give 0")
        return dropping


def _weight(name: str, given: Any) -> float:
    weight = fit("Distiller", "teacher_weights", float, given)
    if not 0 < weight < float("inf"):
        raise InputError(f"teacher_weights must be finite numbers above 0, not {weight} of {name!r}: leave it out")
    return weight


def named_teachers(teacher: Any) -> dict[str, nn.Module]:
    """Teachers by name.

    Args:
        teacher: one network, several by name, several in a list that get numbers, or None.

    Raises:
        SettingError: for names that cannot stand in the name of a term.
    """
    if teacher is None:
        return {}
    if isinstance(teacher, nn.Module):
        return {ONLY: teacher}
    found: dict[Any, nn.Module] = {ONLY: teacher}
    if isinstance(teacher, Mapping):
        found = dict(cast("Mapping[Any, nn.Module]", teacher))
    elif isinstance(teacher, list | tuple) and not _has_methods(teacher):
        found = {str(number): each for number, each in enumerate(cast("Sequence[nn.Module]", teacher))}
    if not found:
        raise SettingError(
            "there is no teacher in the ones that were given: give teacher=None, or at least one network"
        )
    for name in found:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name, re.ASCII):
            raise SettingError(
                f"a teacher's name must be of letters, digits, - and _, such as 'dino', not {name!r}: it is a part of "
                "the names of terms"
            )
    return found


def by_teacher(argument: str, given: Any, teachers: Collection[str]) -> Mapping[str, Any]:
    """What is said of each teacher, by name.

    Args:
        argument: its name, for messages.
        given: one value for the only teacher, or values by the names of teachers.
        teachers: their names.

    Raises:
        InputError: for names that no teacher has, and for one value where there are several teachers.
    """
    if given is None or not teachers:
        return {}
    if isinstance(given, Mapping) and ONLY not in teachers:
        values = cast("Mapping[str, Any]", given)
        strange = [name for name in values if name not in teachers]
        if strange:
            raise InputError(
                f"{argument} names the teacher {strange[0]!r}, and there is {', '.join(map(repr, teachers))}: give "
                "values by these names"
            )
        return values
    if len(teachers) > 1:
        raise InputError(
            f"{argument} must say which of the teachers {', '.join(map(repr, teachers))} it is meant for: give "
            f"{argument}={{{next(iter(teachers))!r}: ...}}"
        )
    return {next(iter(teachers)): given}


def checked_where(argument: str, where: Any) -> Where | None:
    """Where logits are in an output.

    Args:
        argument: its name, for messages.
        where: as it was given.

    Raises:
        SettingError: for anything but a key, an index, a path or a function.
    """
    if where is None or callable(where) or (isinstance(where, str | int) and not isinstance(where, bool)):
        return cast("Where | None", where)
    raise SettingError(
        f"{argument} must be a key, an index, a path such as 'decoder.logits', or a function of the output, not "
        f"{where!r:.200}"
    )


def check_input(name: str, given: Any, channels: int) -> None:
    """Refuse what does not say how a network expects its images.

    Args:
        name: of the argument.
        given: its value; None says nothing.
        channels: of the images.

    Raises:
        SettingError: for anything but an `Input`.
        InputError: for numbers that cannot be.
    """
    if given is None:
        return
    if not isinstance(given, Input):
        raise SettingError(
            f"{name} must be an Input, not a value of type {type(given).__name__}: give "
            "Input(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=None) with your numbers"
        )
    for which in ("mean", "std"):
        values = fit(name, which, tuple[float, ...], getattr(given, which))
        if len(values) != channels or not all(map(isfinite, values)) or (which == "std" and not min(values) > 0):
            positive = ", each above 0" if which == "std" else ""
            raise InputError(
                f"{which} of {name} must be {channels} finite numbers, one for each channel of the example{positive}, "
                f"not {values}"
            )
    size = fit(name, "size", tuple[int, int] | None, given.size)
    if size is not None and min(size) < 1:
        raise InputError(f"size of {name} must be a height and a width of at least 1, not {size}")


def _has_methods(value: Sequence[Any]) -> bool:
    return any(isinstance(item, Method) for item in value)
