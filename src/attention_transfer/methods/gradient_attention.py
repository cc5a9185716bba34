"""Gradient attention: the student's loss is sensitive to the same pixels as the teacher's.

>>> import torch
>>> gradients = torch.zeros(2, 3, 4, 4)
>>> float(gradient_distance(gradients, gradients + 1, distance="square"))
48.0
>>> GradientAttention(target="flip").reads(None, None).teacher.anything
False
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attention_transfer.batch import UNLABELLED, Batch
from attention_transfer.capture.input_gradients import InputGradient
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32, unit
from attention_transfer.methods.method import Method, Needs, Observed, Reads, Request, Term, require_same_classes
from attention_transfer.models.introspection.description import Description

_GRADIENT, _OF_MIRRORED = InputGradient(), InputGradient(mirrored=True)


def gradient_distance(
    student: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    *,
    normalise: bool = False,
    distance: Literal["norm", "square"] = "norm",
    labelled: Bool[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """How far two gradients with respect to the image are apart: the L2 norm of their difference, averaged over images.

    Args:
        student: J of the student.
        target: J of the teacher, or of the mirrored image.
        normalise: compare directions only: each image's J is divided by its L2 norm first.
        distance: `norm`, or `square` for its square.
        labelled: which images have a label, and so a gradient of its loss; None means all.
    """
    ours, theirs = (at_least_float32(gradient).flatten(1) for gradient in (student, target))
    if normalise:
        ours, theirs = unit(ours), unit(theirs)
    difference = ours - theirs
    each = difference.square().sum(1) if distance == "square" else torch.linalg.vector_norm(difference, dim=1)
    if labelled is None:
        return each.mean()
    return torch.where(labelled, each, 0.0).mean() * (len(each) / labelled.sum().clamp_min(1))


@dataclass(frozen=True)
class GradientAttention(Method):
    """Gradient-based attention transfer: matches how the loss of each image changes with its pixels.

    Section 3.2 of Zagoruyko & Komodakis (ICLR 2017, arXiv:1612.03928): with J = ∂(cross-entropy)/∂(image), the term is
    ‖J_S − J_T‖₂, learned by differentiating twice; or, without a teacher, ‖J(x) − flip J(flip x)‖₂, which asks for
    attention that mirrors with the image.

    Both networks must be twice differentiable. Attention is computed by torch's kernel with a second derivative for as
    long as the student runs, since the fused ones have none; `torch.compile` cannot differentiate twice.

    Args:
        weight: β. The paper does not say which.
        target: `teacher`, or `flip` for the symmetry of the student itself; the latter needs no teacher.
        normalise: compare unit-norm gradients, so that only where the loss is sensitive counts, not how much.
        distance: `norm` as printed, or `square`, whose gradient fades as the two come close.

    Departs from the paper: no factor ½. J belongs to the sum of the images' losses, not to their mean, so that it does
    not shrink with the batch, and the norm is taken per image and averaged; the paper says neither. The teacher's J is
    a constant. The mirrored pass draws its own dropout and drop path, so that with them a student is also asked not
    to depend on its noise. Batch normalisation uses the statistics of the batch in the student, where a mirrored
    pass moves no running statistics, and the running ones in the teacher. Where the teacher receives resized or
    differently normalised images, its gradient is taken with respect to the image as the student receives it.
    """

    key: ClassVar[str] = "gradient"

    weight: float = 1.0
    target: Literal["teacher", "flip"] = "teacher"
    normalise: bool = False
    distance: Literal["norm", "square"] = "norm"

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Gradients of the loss with respect to the image, and labels for that loss."""
        del student
        needs = Needs(labels=True, unlabelled=True)
        if self.target == "flip":
            return Reads(student=Request(provide=(_GRADIENT, _OF_MIRRORED)), batch=needs)
        if teacher is None:
            raise InputError('gradient attention needs a teacher, or target="flip"')
        return Reads(Request(logits=True, provide=(_GRADIENT,)), Request(provide=(_GRADIENT,)), needs)

    def check(self, teacher: Observed, student: Observed) -> None:
        """Refuse different classes."""
        if self.target == "flip":
            return
        assert teacher.logits is not None
        assert student.logits is not None
        classes = teacher.logits.shape[1], student.logits.shape[1]
        require_same_classes("gradient attention needs", *classes, 'target="flip"')

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The distance between both gradients."""
        del parts
        target = teacher[_GRADIENT] if self.target == "teacher" else student[_OF_MIRRORED]
        # Those of probabilities all have one.
        labelled = None if batch.label is None or batch.label.ndim > 1 else batch.label != UNLABELLED
        value = gradient_distance(
            student[_GRADIENT], target, normalise=self.normalise, distance=self.distance, labelled=labelled
        )
        return {self.key: Term(value)}
