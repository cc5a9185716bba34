"""Probabilistic knowledge transfer: the student's embedding has the teacher's neighbourhoods.

>>> import torch
>>> vectors = torch.rand(4, 8)
>>> abs(float(neighbourhood_divergence(vectors, 2 * vectors))) < 1e-5
True
>>> Correlation().key
'pkt'
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import unit
from attention_transfer.methods.layers.stage_selection import embedding, embedding_tap
from attention_transfer.methods.method import Method, Needs, Observed, Reads, Request, Term
from attention_transfer.methods.relational import require_several
from attention_transfer.models.introspection.description import Description
from attention_transfer.parallel import gathered

# Added to probabilities, as in the authors' code.
_LEAST = 1e-7


def neighbourhood_divergence(
    student: Float[Tensor, "b c"], teacher: Float[Tensor, "b d"], form: Literal["code", "paper"] = "code"
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) of how likely each image is to choose each other one as its neighbour.

    Eq. 4 to 8 of Passalis & Tefas (ECCV 2018): the probability is the similarity (1 + cosine) / 2, divided by its sum
    over all images that may be chosen.

    Args:
        student: one vector per image.
        teacher: same as `student`, taken as constants.
        form: `code` counts each image as a neighbour of its own, and averages over all b² pairs, as the authors' code
            does; `paper` leaves it out and sums, as printed.
    """
    ours, theirs = _neighbours(student, form), _neighbours(teacher.detach(), form)
    divergences = theirs * ((theirs + _LEAST) / (ours + _LEAST)).log()
    return divergences.mean() if form == "code" else divergences.sum()


@dataclass(frozen=True)
class Correlation(Method):
    """Probabilistic knowledge transfer (PKT): matches the probabilities with which images are neighbours.

    Passalis & Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer (ECCV 2018,
    arXiv:1803.10837), with the cosine as kernel. Only relations are compared, so that the two vectors may have any
    sizes. Where many processes share a batch, all its images are compared with each other.

    Args:
        weight: of the divergence; 30000 goes with the form `code`, whose value is small.
        form: `code` is the mean over all pairs of images, each with itself included, as the authors' code has it;
            `paper` the sum over different ones, as printed.
        student_layer: path of a module whose output, averaged over positions, is compared; None takes what the last
            linear layer takes, or the average of the last stage where no such layer is known.
        teacher_layer: same as for `student_layer`.

    Departs from the paper: nothing else. 1e-7 is added to every probability in the logarithm, as in the authors' code.
    Vectors of zeros stay zeros. A batch of one image is refused; in the form `paper`, two have one neighbour each and
    the loss is 0.
    """

    key: ClassVar[str] = "pkt"

    weight: float = 30000.0
    form: Literal["code", "paper"] = "code"
    student_layer: str | None = None
    teacher_layer: str | None = None

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """The embedding of both networks."""
        if teacher is None:
            raise InputError("probabilistic knowledge transfer needs a teacher")
        return Reads(
            Request((embedding_tap(teacher, "teacher", self.teacher_layer),)),
            Request((embedding_tap(student, "student", self.student_layer),)),
            Needs(minimum=2 if self.form == "code" else 3),
        )

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The divergence between the probabilities that images of the batch are neighbours."""
        del batch, parts
        theirs = gathered(embedding(teacher.features[0], "teacher"))
        ours = gathered(embedding(student.features[0], "student"))
        require_several(ours, "probabilistic knowledge transfer")
        return {self.key: Term(neighbourhood_divergence(ours, theirs, self.form))}


def _neighbours(vectors: Tensor, form: Literal["code", "paper"]) -> Tensor:
    directions = unit(vectors)
    similarities = (directions @ directions.T + 1) / 2
    if form == "paper":
        similarities = similarities * (1 - torch.eye(len(vectors), device=vectors.device, dtype=vectors.dtype))
    return similarities / similarities.sum(1, keepdim=True)
