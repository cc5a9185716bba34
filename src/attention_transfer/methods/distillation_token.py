"""A token for the teacher: beside the class token, a second one learns what the teacher says.

>>> import torch
>>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 5.0]])
>>> round(float(hard_target_loss(student, teacher)), 3)  # the logarithm of 2
0.693
>>> DistillationToken(kind="soft", temperature=3.0).kind
'soft'
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.batch import Batch
from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term, require_same_classes
from attention_transfer.methods.soft_targets import check_temperature, soft_target_divergence
from attention_transfer.models.introspection.description import Description

_HOW = (
    "take a distilled network such as timm:deit_tiny_distilled_patch16_224, or give a vision transformer of timm that "
    "has a class token another one: timm:vit_tiny_patch16_224(distillation_token=True), a name for the command line "
    "and for attention_transfer.models.build"
)


def hard_target_loss(student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Cross-entropy with the teacher's most likely class as the label, averaged over the batch.

    Touvron et al. (ICML 2021, arXiv:2012.12877), eq. 3.

    Args:
        student: logits.
        teacher: logits, taken as constants.
    """
    return functional.cross_entropy(at_least_float32(student), teacher.detach().argmax(1))


@dataclass(frozen=True)
class DistillationToken(Method):
    """The head of a distillation token learns from the teacher, and the head of the class token from the labels.

    DeiT: Touvron, Cord, Douze, Massa, Sablayrolles & Jégou, *Training data-efficient image transformers & distillation
    through attention* (ICML 2021, arXiv:2012.12877), section 4. Wherever this method is used, the task's cross-entropy
    is that of the class head alone; the paper's mixture with α = 0.5 is weight 0.5 with a task weight of 0.5. What is
    measured and saved is the mean of both heads, which the student's own forward pass gives; other methods that read
    its logits receive the mean too.

    Args:
        weight: α; the authors' default is 0.5.
        kind: `hard` learns the teacher's most likely class as a label, `soft` its softened probabilities.
        temperature: τ of `soft`, above 0; the authors' default is 1, their paper tries 3.
        form: of `soft`: `code` divides τ²·KL by batch and classes, as the authors' code does, `paper` by the batch
            alone, which is as many times larger as there are classes.

    Raises:
        ValueError: for a temperature of 0 or less.

    Departs from the paper: it averages the softmax of both heads in testing, timm's networks their logits, as the
    authors' code does. Any network of timm that has such a second head will do, also where no token stands behind it
    (LeViT, EfficientFormer).
    """

    key: ClassVar[str] = "distillation-token"
    smaller_teacher: ClassVar[bool] = True

    weight: float = 0.5
    kind: Literal["hard", "soft"] = "hard"
    temperature: float = 1.0
    form: Literal["code", "paper"] = "code"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Logits of the teacher, and both heads of the student."""
        if teacher is None:
            raise InputError("a distillation token needs a teacher")
        if student.token_heads is None:
            raise InputError(f"the student has no head of a distillation token: {_HOW}")
        of_class, of_distillation = (Tap(path, layout="raw") for path in student.token_heads)
        return Reads(Request(logits=True), Request((of_class, of_distillation)))

    def task_tap(self, reads: Reads) -> Tap | None:
        """The head of the class token, which alone learns the labels."""
        return reads.student.taps[0]

    def check(self, teacher: Observed, student: Observed) -> None:
        """Refuse different classes, and students whose logits are not the mean of two heads."""
        assert teacher.logits is not None
        assert student.logits is not None
        of_class, of_distillation = student.features
        classes = teacher.logits.shape[1], student.logits.shape[1]
        require_same_classes("a distillation token needs", *classes, "a method without logits")
        if of_class.shape != student.logits.shape or not torch.allclose(
            (of_class + of_distillation) / 2, student.logits, rtol=1e-3, atol=1e-4
        ):
            raise InputError(f"the student's logits are not the mean of its two heads: {_HOW}")

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The hard or soft loss of the distillation token's head against the teacher."""
        del batch, parts
        assert teacher.logits is not None
        ours, theirs = student.features[1], teacher.logits
        if self.kind == "hard":
            return {self.key: Term(hard_target_loss(ours, theirs))}
        divergence = soft_target_divergence(ours, theirs, self.temperature)
        return {self.key: Term(divergence / (ours.shape[1] if self.form == "code" else 1))}
