"""Trained attention heads of another run, for students of the same teacher."""

from pathlib import Path

import torch
from torch import Tensor

from attention_transfer.errors import InputError
from attention_transfer.files.bare_student import PARTS_WEIGHTS
from attention_transfer.files.env_paths import expand
from attention_transfer.methods.multi_head_graph.heads import GraphParts
from attention_transfer.models.weight_files import WeightsError, read_tensors

_MARKS = ("teacher", "reading")


def load_heads(parts: GraphParts, place: Path, key: str) -> None:
    """Give parts the heads that an earlier run trained, which are frozen then.

    Args:
        parts: of the same teacher, read in the same way.
        place: a finished run, or its file of parts; environment variables are filled in.
        key: of the method, under which the file holds them.

    Raises:
        ValueError: there is no such file, it holds no such heads, or they belong to another teacher, to other layers or
            to other settings.
    """
    file = _file(place)
    try:
        found = {
            name.removeprefix(f"{key}."): value
            for name, value in read_tensors(file).items()
            if name.startswith(f"{key}.")
        }
    except WeightsError as error:
        raise InputError(f"the attention heads in {file} cannot be read: {error}") from error
    if not any(name.startswith("heads.") for name in found) or not set(_MARKS) <= found.keys():
        raise InputError(f"{file} holds no attention heads of {key}: give a run that learned its graph with {key}")
    _refuse_others(parts, found, file)
    heads = {name.removeprefix("heads."): value for name, value in found.items() if name.startswith("heads.")}
    try:
        parts.heads.load_state_dict(heads)
    except RuntimeError as error:
        raise InputError(
            f"the attention heads in {file} are of another number, or for layers of other widths: give the heads and "
            f"the layers of that run, or leave out graph_from to train new ones ({error})"
        ) from error
    parts.heads.requires_grad_(False)


def _file(place: Path) -> Path:
    place = Path(expand(str(place)))
    if place.is_dir():
        file = place / PARTS_WEIGHTS
        if not file.is_file():
            raise InputError(f"the run {place} kept no parts: it is not finished, or its methods learned nothing")
        return file
    if not place.is_file():
        raise InputError(f"there is no run and no file of attention heads at {place}")
    return place


def _refuse_others(parts: GraphParts, found: dict[str, Tensor], file: Path) -> None:
    wanted = {name: parts.get_buffer(name).cpu() for name in _MARKS}
    if not torch.equal(found["teacher"], wanted["teacher"]):
        raise InputError(
            f"the attention heads in {file} were trained on another teacher: they say nothing about this one; give the "
            "teacher of that run, or leave out graph_from to train new ones"
        )
    if not torch.equal(found["reading"], wanted["reading"]):
        raise InputError(
            f"the attention heads in {file} read this teacher otherwise: give the layers (activation, stages, "
            "teacher_layers), scaled and the teacher's normalisation of that run, or leave out graph_from to train new "
            "ones"
        )
