"""How a network of transformers expects its images, as the file of its preprocessor says."""

import math
from collections.abc import Mapping
from typing import Any, cast

from attention_transfer.models.description import Input

_COLOURS = 3
_BYTES = 255.0
_ROUNDING = 1e-4  # 1/255 is written with more or fewer digits


def preprocessing(name: str) -> Input | None:
    """What a model's preprocessor file says about its images.

    Args:
        name: of the model, or a folder.

    Returns:
        None where there is no such file, or none that tells it.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError):  # of a file that is no JSON in UTF-8, too
        return None
    return images_of(values)


def images_of(values: object) -> Input | None:
    """The images that a preprocessor makes of pixels in 0…1.

    Args:
        values: of its file; anything.

    Returns:
        None where they do not tell it: they lack mean and deviation, give others than three of them, or shift values
        before these.
    """
    if not isinstance(values, Mapping):
        return None
    said = cast("Mapping[str, Any]", values)
    if said.get("rescale_offset"):
        return None
    # Pixels become 0…white before the mean is subtracted.
    factor = said.get("rescale_factor", 1 / _BYTES)
    if said.get("do_rescale") is False:
        factor = 1
    if not _is_number(factor) or factor <= 0:
        return None
    white = _BYTES * factor
    white = 1.0 if abs(white - 1) < _ROUNDING else white
    normalises = said.get("do_normalize") is not False
    mean = _colours(said.get("image_mean") if normalises else 0.0)
    std = _colours(said.get("image_std") if normalises else 1.0)
    if mean is None or std is None or min(std) <= 0:
        return None
    return Input(_divided(mean, white), _divided(std, white))


def _colours(value: object) -> tuple[float, float, float] | None:
    """Three numbers; one alone is of every channel."""
    each = cast("list[Any]", value) if isinstance(value, (list, tuple)) else [value] * _COLOURS
    if len(each) != _COLOURS or not all(map(_is_number, each)):
        return None
    return float(each[0]), float(each[1]), float(each[2])


def _divided(values: tuple[float, float, float], by: float) -> tuple[float, float, float]:
    return values[0] / by, values[1] / by, values[2] / by


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
