"""Trained networks saved bare, as a state dict and a few lines of JSON that say how to load it; and read back.

>>> import tempfile
>>> from pathlib import Path
>>> from attention_transfer import build
>>> with tempfile.TemporaryDirectory() as folder:
...     save_model(build("resnet8", 10), Path(folder), "resnet8", 10)
...     read_student_file(Path(folder)).num_classes
10
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
from torch import nn

from attention_transfer.errors import InputError
from attention_transfer.files.atomic import whole_file, write_whole
from attention_transfer.files.bare_student import STUDENT_CONFIG, STUDENT_WEIGHTS
from attention_transfer.files.json_fields import Fields, is_list, is_number, is_whole
from attention_transfer.files.untrusted import read_object
from attention_transfer.models.bounds import LARGEST_SIDE
from attention_transfer.models.build import bare, takes_image_size
from attention_transfer.models.distillation_token import asks_for_token
from attention_transfer.models.introspection.description import Input
from attention_transfer.models.naming import Name, check_recorded, is_source, parse_name, written
from attention_transfer.models.state_dicts import without_wrappers


def save_model(
    model: nn.Module,
    folder: Path,
    name: str,
    num_classes: int,
    image_size: int | None = None,
    input: Input | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Save a network bare: its own state dict, and a few lines of JSON that say how to load it without this package.

    Args:
        model: the network, not compiled and not wrapped for several processes (their prefixes are taken off).
        folder: an existing folder; what was saved there before is replaced, each file whole or not at all.
        name: how `build` calls it.
        num_classes: size of its logits; 0 for one without its last layer.
        image_size: side in pixels that it was built for, as given to `build`.
        input: how its images are normalised.
        extra: more to remember, JSON.

    Raises:
        ValueError: if `extra` would hide what is needed to open the network.
    """
    network = bare(model)
    # Copies: safetensors refuses tensors that share memory or lie in another order than their indices.
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in without_wrappers(network.state_dict()).items()}
    known: dict[str, Any] = {
        "model": name,
        "num_classes": num_classes,
        "image_size": image_size,
        "mean": list(input.mean) if input else None,
        "std": list(input.std) if input else None,
        "input_size": list(input.size) if input and input.size else None,
        "load": _instructions(name, num_classes, image_size),
    }
    if name.startswith("hf:"):
        known["transformers_config"] = cast("Any", network).config.to_dict()
    clash = sorted(known.keys() & (extra or {}).keys())
    if clash:
        raise InputError(f"extra must not hold {', '.join(clash)}: they are needed to open the network")
    with whole_file(folder / STUDENT_WEIGHTS) as temporary:
        safetensors.torch.save_file(weights, temporary, metadata={"format": "pt"})
    text = json.dumps({**known, **(extra or {})}, indent=2, ensure_ascii=False, default=str)
    write_whole(folder / STUDENT_CONFIG, (text + "\n").encode())


def _instructions(name: str, num_classes: int, image_size: int | None) -> str:
    """Python that loads the saved weights, in plain torch wherever their library is another's."""
    parsed = parse_name(name)
    arguments = dict(parsed.arguments)
    if not parsed.library:
        make = f"attention_transfer.models.build({name!r}, {num_classes})"
    elif parsed.library == "timm" and asks_for_token(parsed):
        size = f", image_size={image_size}" if image_size else ""
        make = f"attention_transfer.models.build({name!r}, {num_classes}{size})"
    elif parsed.library == "timm":
        if image_size and takes_image_size(parsed, image_size):
            arguments = {"img_size": image_size} | arguments
        make = f"timm.create_model({parsed.inner!r}, num_classes={num_classes}{written(arguments)})"
    elif parsed.library == "torchvision":
        if image_size and parsed.inner.startswith("vit_"):
            arguments = {"image_size": image_size} | arguments
        make = f"torchvision.models.get_model({parsed.inner!r}, num_classes={num_classes}{written(arguments)})"
    else:
        config = f"json.loads(pathlib.Path({STUDENT_CONFIG!r}).read_text())['transformers_config']"
        auto = "transformers.AutoModelForImageClassification"
        make = f"{auto}.from_config(transformers.AutoConfig.for_model(**{config}))"
    return f"model = {make}; model.load_state_dict(safetensors.torch.load_file({STUDENT_WEIGHTS!r}))"


_COLOURS = 3


@dataclass(frozen=True)
class StudentFile:
    """The contents of a `student.json`, each of the type that it should have.

    Args:
        path: of the file.
        name: how `build` calls the network.
        num_classes: size of its logits; 0 for one without its last layer.
        image_size: side in pixels that it was built for; None where it takes any.
        input: the images it was trained on; None if unknown.
        classes: their names; None if unknown.
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
