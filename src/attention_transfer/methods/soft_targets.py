"""Soft targets: the student learns the teacher's class probabilities (Hinton's knowledge distillation).

>>> import torch
>>> student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
>>> round(float(soft_target_divergence(student, teacher, temperature=1.0)), 3)
1.523
>>> SoftTargets(temperature=4.0).weight
0.9
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term, require_same_classes
from attention_transfer.models.introspection.description import Description

_LOWEST, _HIGHEST = 1e-4, 1e4


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that no softmax can have.

    Args:
        temperature: what divides the logits.

    Raises:
        InputError: if it is not a finite number above 0, or so small or large that float32 cannot hold what is
            computed with it.
    """
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature must be a finite number above 0, not {temperature}")
    if not _LOWEST <= temperature <= _HIGHEST:
        raise InputError(
            f"temperature must lie between {_LOWEST:g} and {_HIGHEST:g}, not {temperature:g}: 1 to 20 are usual"
        )


def soft_target_divergence(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float
) -> Float[Tensor, ""]:
    """T²·KL(teacher ‖ student) of the softened class probabilities, averaged over the batch.

    Hinton, Vinyals & Dean (arXiv:1503.02531), section 2; T² keeps the gradient's size independent of T.

    Args:
        student: logits.
        teacher: logits, taken as constants.
        temperature: T, above 0.
    """
    ours = functional.log_softmax(at_least_float32(student) / temperature, dim=1)
    theirs = functional.log_softmax(at_least_float32(teacher.detach()) / temperature, dim=1)
    return temperature**2 * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class SoftTargets(Method):
    """Knowledge distillation by softened class probabilities.

    Hinton, Vinyals & Dean (arXiv:1503.02531). The usual mixture on CIFAR is weight 0.9 with a task weight of 0.1.

    Args:
        weight: of the divergence.
        temperature: T, above 0; softens both distributions.

    Raises:
        ValueError: for a temperature of 0 or less.

    Departs from the paper: the Kullback–Leibler divergence stands for the cross-entropy with soft targets; they differ
    by the teacher's entropy, which has no gradient.
    """

    key: ClassVar[str] = "kd"

    weight: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Logits of the teacher."""
        del student
        if teacher is None:
            raise InputError("soft targets need a teacher")
        return Reads(Request(logits=True))

    def check(self, teacher: Observed, student: Observed) -> None:
        """Refuse different classes."""
        assert teacher.logits is not None
        assert student.logits is not None
        classes = teacher.logits.shape[1], student.logits.shape[1]
        require_same_classes("soft targets need", *classes, "a method without logits")

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The divergence between softened class probabilities."""
        del batch, parts
        assert teacher.logits is not None
        assert student.logits is not None
        return {self.key: Term(soft_target_divergence(student.logits, teacher.logits, self.temperature))}
