"""Record of a training with the user's own networks, methods and settings, as JSON."""

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
from torch import Tensor, nn

from attention_transfer.distiller import Distiller
from attention_transfer.files.atomic import whole_file
from attention_transfer.files.bare_student import PARTS_WEIGHTS, STUDENT_WEIGHTS
from attention_transfer.models.fingerprint import fingerprint
from attention_transfer.training.averaging import WeightAverage

RECIPE = "fit"


def recorded(
    distiller: Distiller,
    *,
    seed: int,
    batches: int | None,
    optimisation: Mapping[str, Any],
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that is known to determine a run, as JSON: `compare` reads it as the experiment of a command.

    Args:
        distiller: with methods whose settings are decided.
        seed: of the training.
        batches: batches of an epoch; None if unknown.
        optimisation: optimiser and schedule.
        training: the other settings.
    """
    teacher = distiller.teacher
    return {
        "recipe": RECIPE,
        "student": type(distiller.student).__name__,
        "teacher": None if teacher is None else type(teacher).__name__,
        "methods": [{"name": method.key, **_settings(method)} for method in distiller.methods],
        "task_weight": distiller.task_weight,
        "seed": seed,
        "data": {"batches": batches},
        "optimisation": dict(optimisation),
        "training": dict(training),
        "networks": {
            "student": _shapes(distiller.student),
            "parts": _shapes(distiller.parts),
            "teacher": None if teacher is None else _shapes(teacher) | {"weights": fingerprint(teacher).hex()[:16]},
        },
    }


def keep_bare(distiller: Distiller, average: WeightAverage | None, folder: Path) -> None:
    """Save the student (its average where there is one) as a plain state dict, and beside it what methods learned."""
    with nullcontext() if average is None else average.in_place():
        _save(distiller.student, folder / STUDENT_WEIGHTS)
    if distiller.parts.state_dict():
        _save(distiller.parts, folder / PARTS_WEIGHTS)


def _save(module: nn.Module, file: Path) -> None:
    # Copies, as safetensors refuses memory that two tensors share, and other orders than rows first.
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }
    with whole_file(file) as temporary:
        safetensors.torch.save_file(state, temporary)


def _shapes(module: nn.Module) -> dict[str, Any]:
    """How many parameters there are, and a digest of their names and shapes, and of those of buffers."""
    # A module may keep something else there (`get_extra_state`).
    tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    shapes = sorted(f"{name} {tuple(value.shape)} {value.dtype}" for name, value in tensors.items())
    return {
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "trained": sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad),
        "shapes": hashlib.blake2b("\n".join(shapes).encode(), digest_size=8).hexdigest(),
    }


def _settings(value: Any) -> dict[str, Any]:
    return {each.name: _to_json(getattr(value, each.name)) for each in fields(value)} if is_dataclass(value) else {}


def _to_json(value: Any) -> Any:
    if is_dataclass(value):
        return _settings(value)
    if isinstance(value, (list, tuple)):
        return [_to_json(each) for each in cast("list[Any]", value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value) if isinstance(value, Path) else type(value).__name__
