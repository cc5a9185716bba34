"""Relational distillation: images lie to each other in the student as they do in the teacher.

>>> import torch
>>> vectors = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
>>> float(distance_loss(vectors, 10 * vectors)), float(angle_loss(vectors, 10 * vectors)) < 1e-6
(0.0, True)
>>> Relational(distance_weight=25.0, angle_weight=50.0).key
'rkd'
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import unit
from attention_transfer.methods.layers.stage_selection import embedding, embedding_tap
from attention_transfer.methods.method import Method, Needs, Observed, Reads, Request, Term
from attention_transfer.models.introspection.description import Description
from attention_transfer.parallel import gathered

Form = Literal["code", "paper"]

_LEAST_DISTANCE = 1e-6
# Numbers in the directions from some images to all others that are kept at a time; 256 MiB in float32.
_KEPT_AT_ONCE = 2**26


def distance_loss(
    student: Float[Tensor, "b c"], teacher: Float[Tensor, "b d"], form: Form = "code"
) -> Float[Tensor, ""]:
    """Huber loss between the distances of all pairs of images, each divided by the mean distance of its network.

    Eq. 4 to 6 of Park et al. (CVPR 2019, arXiv:1904.05068).

    Args:
        student: one vector per image, at least 2 of them.
        teacher: same as `student`, taken as constants.
        form: `code` is the mean over all b² entries of the matrix of distances, as the authors' code has it; `paper`
            their sum, as printed.
    """
    ours, theirs = _relative_distances(student), _relative_distances(teacher.detach())
    return functional.smooth_l1_loss(ours, theirs, reduction=_REDUCTION[form])


def angle_loss(student: Float[Tensor, "b c"], teacher: Float[Tensor, "b d"], form: Form = "code") -> Float[Tensor, ""]:
    """Huber loss between the cosines of the angles that all triples of images make.

    Eq. 7 to 9 of Park et al. (CVPR 2019, arXiv:1904.05068). An image makes no angle with itself; of fewer than 3
    images the loss is 0.

    Args:
        student: one vector per image.
        teacher: same as `student`, taken as constants.
        form: `code` is the mean over all b³ triples, as the authors' code has it; `paper` their sum, as printed.
    """
    count, teacher = len(student), teacher.detach()
    at_once = max(1, _KEPT_AT_ONCE // (count * max(student.shape[1], teacher.shape[1], count)))
    if at_once >= count:
        total = _angle_sum(student, teacher, student, teacher)
    else:
        # Directions to all others are made anew for the gradient, a few images at a time.
        parts = zip(student.split(at_once), teacher.split(at_once), strict=True)
        sums = [
            checkpoint(_angle_sum, *some, student, teacher, use_reentrant=False, preserve_rng_state=False)
            for some in parts
        ]
        total = torch.stack(sums).sum()
    return total / count**3 if form == "code" else total


@dataclass(frozen=True)
class Relational(Method):
    """Relational knowledge distillation: distances between pairs of images and angles between triples are matched.

    Park et al. (CVPR 2019, arXiv:1904.05068). Only relations are compared, so that the two vectors may have any sizes.
    Where many processes share a batch, all its images are compared with each other.

    Args:
        weight: of both.
        distance_weight: of the distances; at least 0.
        angle_weight: of the angles; at least 0.
        form: `code` averages over all entries, the images' relations to themselves included, as the authors' code
            does and the weights are meant for; `paper` sums, as printed.
        student_layer: path of a module whose output, averaged over positions, is compared; None takes what the last
            linear layer takes, or the average of the last stage where no such layer is known.
        teacher_layer: same as for `student_layer`.

    Raises:
        ValueError: for a negative weight, or two that are 0.

    Departs from the paper: nothing else. As in the authors' code, no vector is brought to unit length first. Of
    2 images the mean distance is their only one and there is no angle: the loss is then 0; 1 image is refused. Images
    with the same vector count as 1e-6 apart.
    """

    key: ClassVar[str] = "rkd"
    volumes: ClassVar[bool] = True

    distance_weight: float = 25.0
    angle_weight: float = 50.0
    form: Form = "code"
    student_layer: str | None = None
    teacher_layer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = {"distance_weight": self.distance_weight, "angle_weight": self.angle_weight}
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"{name} must be a finite number of at least 0, not {weight}")
        if not any(weights.values()):
            raise InputError("distance_weight and angle_weight are both 0: nothing is compared; leave the method out")

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """The embedding of both networks."""
        if teacher is None:
            raise InputError("relational distillation needs a teacher")
        return Reads(
            Request((embedding_tap(teacher, "teacher", self.teacher_layer),)),
            Request((embedding_tap(student, "student", self.student_layer),)),
            Needs(minimum=3),
        )

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The losses of distances and of angles, each with its weight."""
        del batch, parts
        theirs = gathered(embedding(teacher.features[0], "teacher"))
        ours = gathered(embedding(student.features[0], "student"))
        require_several(ours, "relational distillation")
        terms: dict[str, Term] = {}
        if self.distance_weight:
            terms[f"{self.key}-distance"] = Term(distance_loss(ours, theirs, self.form), self.distance_weight)
        if self.angle_weight:
            terms[f"{self.key}-angle"] = Term(angle_loss(ours, theirs, self.form), self.angle_weight)
        return terms


def require_several(rows: Float[Tensor, "b ..."], what: str) -> None:
    """Refuse a batch of one image, which has nothing to be compared with.

    Args:
        rows: of all processes.
        what: compares them, for the message.
    """
    if len(rows) < 2:
        raise InputError(
            f"{what} compares the images of a batch with each other, and this one has {len(rows)}: give at least two "
            "images in every batch, for a DataLoader with drop_last=True"
        )


_REDUCTION: dict[Form, str] = {"code": "mean", "paper": "sum"}


def _relative_distances(vectors: Tensor) -> Tensor:
    """All pairs; the images' distances to themselves stay 0 and do not count in the mean."""
    count = len(vectors)
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(_LEAST_DISTANCE)
    distances = distances * (1 - torch.eye(count, device=vectors.device, dtype=vectors.dtype))
    return distances / (distances.sum() / (count * (count - 1)))


def _angle_sum(student_vertices: Tensor, teacher_vertices: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    """Over the angles at some images between any two others."""
    with torch.no_grad():
        theirs = _cosines(teacher_vertices, teacher)
    return functional.smooth_l1_loss(_cosines(student_vertices, student), theirs, reduction="sum")


def _cosines(vertices: Tensor, vectors: Tensor) -> Tensor:
    directions = unit(vectors - vertices[:, None])
    return directions @ directions.mT
