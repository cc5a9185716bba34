"""Images as one network has them, made into images as another expects them."""

from typing import cast

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
        if self.moves:
            image = torch.addcmul(cast(Tensor, self.shift), image, cast(Tensor, self.scale))
        if self.size is not None and tuple(image.shape[2:]) != self.size:
            image = functional.interpolate(image, self.size, mode="bicubic", antialias=True, align_corners=False)
        return image
