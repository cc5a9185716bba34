"""Attention transfer: the student looks where the teacher looks.

>>> import torch
>>> features = torch.rand(2, 8, 4, 4)
>>> float(map_distance(features, features, form="code"))
0.0
>>> AttentionTransfer(weight=1000.0, stages=(0, 2)).stages
(0, 2)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import MapKind, attention_map, same_size
from attention_transfer.methods.layers.stage_selection import Activation, check_stages, paired_layers
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term
from attention_transfer.models.introspection.description import Description


def map_distance(
    student: Float[Tensor, "b n"], teacher: Float[Tensor, "b n"], form: Literal["code", "paper"]
) -> Float[Tensor, ""]:
    """How far unit-norm maps are apart: mean squared difference (`code`) or mean L2 norm over images (`paper`)."""
    difference = student - teacher
    if form == "code":
        return difference.square().mean()
    return torch.linalg.vector_norm(difference, dim=1).mean()


@dataclass(frozen=True)
class AttentionTransfer(Method):
    """Activation-based attention transfer: matches unit-norm spatial maps of teacher and student, layer by layer.

    Eq. 2 of Zagoruyko & Komodakis (ICLR 2017, arXiv:1612.03928), without the task's loss, which the distiller adds.

    Args:
        weight: β; the authors' commands use 1000 with the form `code`.
        kind: `sum` or `max` over channels.
        power: exponent p of `|A|`, at least 1, odd and fractional ones included.
        form: `code` is the mean over images and positions of the squared difference, what the authors ran and what
            their β belongs to; `paper` is the mean over images of the L2 norm, as Eq. 2 is printed.
        activation: `post` reads stages as the next one receives them, `pre` before their last activation.
        stages: which top-level stages, counted from 0 (negative from the end), the same in both networks; None takes
            all, and where one network has more, as many of them as the other has, spread evenly over depth.
        student_layers: module paths in the student, instead of stages.
        teacher_layers: module paths in the teacher, one for each of `student_layers`.

    Raises:
        ValueError: for a power below 1, or layers that do not pair up.

    Departs from the paper: the loss is summed over layers and carries no factor ½. Features of different height or
    width are averaged to the smaller size before the map is taken; the paper has only equal ones. Channel counts may
    differ, as in the paper. Volumes, which it has not, have maps over time, height and width.
    """

    key: ClassVar[str] = "at"
    volumes: ClassVar[bool] = True

    weight: float = 1000.0
    kind: MapKind = "sum"
    power: float = 2.0
    form: Literal["code", "paper"] = "code"
    activation: Activation = "post"
    stages: tuple[int, ...] | None = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.power < float("inf"):
            raise InputError(f"power must be a finite number of at least 1, not {self.power}")
        check_stages(self.stages, self.student_layers, self.teacher_layers)

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Features of the paired stages or layers."""
        if teacher is None:
            raise InputError("attention transfer needs a teacher")
        theirs, ours = paired_layers(teacher, student, self, self.activation, self.activation)
        return Reads(Request(theirs), Request(ours))

    def check(self, teacher: Observed, student: Observed) -> None:
        """Refuse pairs whose maps have a single position."""
        for i, (theirs, ours) in enumerate(zip(teacher.features, student.features, strict=True)):
            sizes = [tuple(features.shape[2:]) for features in (theirs, ours)]
            if len(sizes[0]) != len(sizes[1]):
                raise InputError(
                    f"the maps of pair {i} have sides {sizes[0]} in the teacher and {sizes[1]} in the student: name "
                    "layers of which both are of images, or both of volumes"
                )
            if math.prod(map(min, *sizes)) == 1:
                raise InputError(
                    f"the maps of pair {i} have one position ({sizes[0]} in the teacher, {sizes[1]} in the student), "
                    "where every unit-norm map is the same: leave it out with stages=, or take larger images"
                )

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The distance between the attention maps of each pair, summed over pairs."""
        del batch, parts
        maps: list[tuple[Tensor, Tensor]] = []
        for theirs, ours in zip(teacher.features, student.features, strict=True):
            fitted_teacher, fitted_student = same_size(theirs, ours)
            with torch.no_grad():
                target = attention_map(fitted_teacher, self.power, self.kind)
            maps.append((attention_map(fitted_student, self.power, self.kind), target))
        value = torch.stack([map_distance(*pair, self.form) for pair in maps]).sum()
        return {self.key: Term(value, of_images=lambda: self._of_images(maps))}

    def _of_images(self, maps: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, " b"]:
        """The distance of each image."""
        differences = [student - teacher for student, teacher in maps]
        if self.form == "code":
            return torch.stack([each.square().mean(1) for each in differences]).sum(0)
        return torch.stack([torch.linalg.vector_norm(each, dim=1) for each in differences]).sum(0)
