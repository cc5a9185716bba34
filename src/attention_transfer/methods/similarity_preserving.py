"""Similarity-preserving distillation: images that are alike to the teacher are alike to the student.

>>> import torch
>>> features = torch.rand(4, 8)
>>> float(similarity_distance(features, 2 * features)) < 1e-6
True
>>> SimilarityPreserving().key
'sp'
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.methods.layers.stage_selection import check_stages, paired_layers
from attention_transfer.methods.method import Method, Needs, Observed, Reads, Request, Term
from attention_transfer.methods.relational import require_several
from attention_transfer.models.introspection.description import Description
from attention_transfer.parallel import gathered


def similarity_distance(student: Float[Tensor, "b ..."], teacher: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """How far the similarities of all pairs of images are apart in two networks, as a mean over the b² pairs.

    Eq. 1 to 4 of Tung & Mori (ICCV 2019, arXiv:1907.09682): G = A·Aᵀ of the flattened activations A, each row divided
    by its L2 norm; the mean squared difference of the two.

    Args:
        student: activations of any shape.
        teacher: same as `student`, of any other shape, taken as constants.
    """
    return functional.mse_loss(_similarities(student), _similarities(teacher.detach()))


@dataclass(frozen=True)
class SimilarityPreserving(Method):
    """Matches which images of a batch activate the networks alike.

    Tung & Mori (ICCV 2019, arXiv:1907.09682). Only similarities between images are compared, so that channels and
    positions may be of any number. Where many processes share a batch, all its images are compared with each other.

    Args:
        weight: γ.
        stages: which top-level stages, counted from 0 (negative from the end), the same in both networks; None takes
            the last.
        student_layers: module paths in the student, instead of stages.
        teacher_layers: module paths in the teacher, one for each of `student_layers`.

    Raises:
        ValueError: for layers that do not pair up.

    Departs from the paper: nothing; the loss is summed over pairs of layers, and by default there is one, the last
    stage. Of transformers the patches alone are compared, without class and register tokens. A batch of one image is
    refused.
    """

    key: ClassVar[str] = "sp"

    weight: float = 3000.0
    stages: tuple[int, ...] | None = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stages(self.stages, self.student_layers, self.teacher_layers)

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Features of the paired stages or layers."""
        if teacher is None:
            raise InputError("similarity-preserving distillation needs a teacher")
        chosen = self if self.stages or self.student_layers else replace(self, stages=(-1,))
        theirs, ours = paired_layers(teacher, student, chosen, "post", "post")
        return Reads(Request(theirs), Request(ours), Needs(minimum=2))

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The distance between the similarities within the batch, summed over pairs."""
        del batch, parts
        distances: list[Tensor] = []
        for theirs, ours in zip(teacher.features, student.features, strict=True):
            all_of_ours = gathered(at_least_float32(ours))
            require_several(all_of_ours, "similarity-preserving distillation")
            distances.append(similarity_distance(all_of_ours, gathered(at_least_float32(theirs))))
        return {self.key: Term(torch.stack(distances).sum())}


def _similarities(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    return functional.normalize(flat @ flat.T, dim=1)
