"""What is written beside a student's weights, read as what somebody else may have written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from attention_transfer.errors import InputError
from attention_transfer.files.bare_student import STUDENT_CONFIG
from attention_transfer.files.json_fields import Fields, is_list, is_number, is_whole
from attention_transfer.files.untrusted import read_object
from attention_transfer.models.bounds import LARGEST_SIDE
from attention_transfer.models.introspection.description import Input
from attention_transfer.models.naming import Name, parse_name
from attention_transfer.models.recorded_names import check_recorded, is_source

_COLOURS = 3


@dataclass(frozen=True)
class StudentFile:
    """The contents of a `student.json`, each of the type that it should have.

    Args:
        path: of the file.
        name: how `build` calls the network.
        num_classes: size of its logits; 0 for one without its last layer.
        image_size: side in pixels that it was built for; None where it takes any.
        input: the images it was trained on; None where nobody says.
        classes: their names; None where nobody says.
        transformers_config: of a network of transformers.
        used_with: what it needs beside itself; None where it needs nothing.
    """

    path: Path
    name: str
    num_classes: int
    image_size: int | None
    input: Input | None
    classes: tuple[str, ...] | None
    transformers_config: Mapping[str, Any] | None
    used_with: Fields | None

    @property
    def parsed(self) -> Name:
        """The network's name in its parts."""
        return parse_name(self.name)


def read_student_file(folder: Path) -> StudentFile:
    """What a folder says about the student in it.

    Raises:
        ValueError: there is none, or it says something that cannot be.
    """
    path = folder / STUDENT_CONFIG
    if not path.exists():
        raise InputError(
            f"{folder} holds no {STUDENT_CONFIG}: it is no run, or its training has not saved a student yet"
        )
    fields = Fields(read_object(path), str(path))
    classes = fields.items("classes", "a list of names", lambda value: isinstance(value, str))
    config = fields.inner("transformers_config")
    return StudentFile(
        path,
        str(fields.text("model", needed=True)),
        int(fields.whole("num_classes", needed=True) or 0),
        fields.take("image_size", f"a whole number from 1 to {LARGEST_SIDE}", _is_side),
        _input(fields),
        None if classes is None else tuple(classes),
        None if config is None else config.values,
        fields.inner("used_with"),
    )


def check_student_file(student: StudentFile, *, allow_download: bool = False) -> None:
    """Refuse a student whose file asks for more than a network that can be built from what is installed.

    Args:
        student: as it was read.
        allow_download: by the user.

    Raises:
        ValueError: saying what it asks for.
    """
    name = student.parsed
    if name.library == "hf" and student.transformers_config is not None:
        return  # It has all that is needed.
    check_recorded(student.name, student.path, allow_download=allow_download)
    if name.library == "hf" or (name.library == "timm" and is_source(name.inner)):
        if allow_download:
            return
        raise InputError(
            f"{student.path} names {student.name!r}, a place elsewhere, and a run opens what lies in it alone. Give "
            "the name and the file of its weights yourself, as NAME@FILE"
        )


def _input(fields: Fields) -> Input | None:
    mean = fields.take("mean", "three numbers, one for each channel", _are_colours)
    deviation = fields.take("std", "three numbers above 0, one for each channel", _are_deviations)
    size = fields.take("input_size", "height and width in pixels", _is_size)
    if not mean or not deviation:
        return None
    return Input(_triple(mean), _triple(deviation), None if not size else (size[0], size[1]))


def _are_colours(value: Any) -> bool:
    return value == [] or (is_list(value, is_number) and len(value) == _COLOURS)


def _are_deviations(value: Any) -> bool:
    return _are_colours(value) and all(each > 0 for each in cast("list[float]", value))


def _is_side(value: Any) -> bool:
    return is_whole(value, 1) and value <= LARGEST_SIDE


def _is_size(value: Any) -> bool:
    return value == [] or (is_list(value, _is_side) and len(value) == 2)


def _triple(values: list[float]) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third
