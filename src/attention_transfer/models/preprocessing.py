"""Normalisation of images: how a network expects them, and images of one network made into those of another.

>>> import torch
>>> from attention_transfer import Input
>>> half = Input(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
>>> plain = Input(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
>>> float(Renormalise(plain, half)(torch.ones(1, 3, 2, 2)).mean())
1.0
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.errors import InputError
from attention_transfer.models.introspection.description import Input


class Renormalise(nn.Module):
    """The student's images as the teacher expects them: another mean, deviation or size.

    Args:
        student: how the images that come in are normalised.
        teacher: how those that go out shall be; None leaves images alone.

    Attributes:
        teacher: the same.

    Raises:
        ValueError: if only the teacher's is known.
    """

    def __init__(self, student: Input | None, teacher: Input | None) -> None:
        super().__init__()
        if teacher is not None and student is None:
            raise InputError(
                "teacher_input needs student_input beside it: how are the images normalised that you give?"
            )
        self.teacher = teacher
        self.size = teacher.size if teacher is not None else None
        self.moves = False
        if student is not None and teacher is not None:
            self.moves = (student.mean, student.std) != (teacher.mean, teacher.std)
            ours, theirs = (
                torch.tensor([each.mean, each.std], dtype=torch.float64, device="cpu") for each in (student, teacher)
            )
            # Buffers, so that no step copies constants to the device.
            scale, shift = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
            self.register_buffer("scale", scale.float()[:, None, None], persistent=False)
            self.register_buffer("shift", shift.float()[:, None, None], persistent=False)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 i j"]:
        """Images in the normalisation of the other network."""
        if self.moves:
            image = torch.addcmul(cast(Tensor, self.shift), image, cast(Tensor, self.scale))
        if self.size is not None and tuple(image.shape[2:]) != self.size:
            image = functional.interpolate(image, self.size, mode="bicubic", antialias=True, align_corners=False)
        return image


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
    except (OSError, ValueError, AttributeError):  # of a file that is no object of JSON in UTF-8, too
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
    found = normalised(said.get("image_mean"), said.get("image_std")) if normalises else Input()
    return None if found is None else Input(_divided(found.mean, white), _divided(found.std, white))


def normalised(mean: object, std: object, size: tuple[int, int] | None = None) -> Input | None:
    """Images of a mean and a deviation, which anybody may have written.

    Args:
        mean: anything.
        std: anything.
        size: height and width; None accepts any.

    Returns:
        None where these are not three numbers each, or one for all channels, or a deviation is not above 0.
    """
    means, deviations = _colours(mean), _colours(std)
    return None if means is None or deviations is None or min(deviations) <= 0 else Input(means, deviations, size)


def _colours(value: Any) -> tuple[float, float, float] | None:
    """Three numbers; one alone is of every channel."""
    each: list[Any] = list(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else [value]
    each = each * _COLOURS if len(each) == 1 else each
    if len(each) != _COLOURS or not all(map(_is_number, each)):
        return None
    return float(each[0]), float(each[1]), float(each[2])


def _divided(values: tuple[float, float, float], by: float) -> tuple[float, float, float]:
    return values[0] / by, values[1] / by, values[2] / by


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
