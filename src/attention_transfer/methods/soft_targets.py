"""Soft targets: the student learns the teacher's class probabilities (Hinton's knowledge distillation).

>>> import torch
>>> student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
>>> round(float(soft_target_divergence(student, teacher, temperature=1.0)), 3)
1.523
>>> SoftTargets(temperature=4.0).weight
0.9

Of several hot labels each class has a probability of its own, and of segmentation each position has its classes:

>>> round(float(soft_binary_divergence(student, teacher, temperature=1.0)), 3)
0.381
>>> soft_target_divergence(torch.zeros(2, 5, 8, 8), torch.zeros(2, 5, 8, 8), temperature=4.0)
tensor(0.)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
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
    student: Float[Tensor, "b k ..."], teacher: Float[Tensor, "b k ..."], temperature: float
) -> Float[Tensor, ""]:
    """T²·KL(teacher ‖ student) of the softened class probabilities, averaged over the batch and over positions.

    Hinton, Vinyals & Dean (arXiv:1503.02531), section 2; T² keeps the gradient's size independent of T.

    Args:
        student: logits, of each image or of each position.
        teacher: logits, taken as constants.
        temperature: T, above 0.
    """
    ours = functional.log_softmax(at_least_float32(student) / temperature, dim=1)
    theirs = functional.log_softmax(at_least_float32(teacher.detach()) / temperature, dim=1)
    value = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return temperature**2 * value / student[0, 0].numel()


def soft_binary_divergence(
    student: Float[Tensor, "b k ..."], teacher: Float[Tensor, "b k ..."], temperature: float
) -> Float[Tensor, ""]:
    """T²·KL(teacher ‖ student) of the softened probabilities of each class by itself.

    Averaged over the batch, over classes and over positions, as the binary cross-entropy is that it stands beside.

    Args:
        student: logits, of each image or of each position.
        teacher: logits, taken as constants.
        temperature: T, above 0.
    """
    return temperature**2 * _binary_divergences(student, teacher, temperature).mean()


def _binary_divergences(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    ours, theirs = at_least_float32(student) / temperature, at_least_float32(teacher.detach()) / temperature
    # Both outcomes of each class, as logarithms that stay finite where a probability is 0 or 1.
    of_ours = torch.stack((functional.logsigmoid(ours), functional.logsigmoid(-ours)))
    of_theirs = torch.stack((functional.logsigmoid(theirs), functional.logsigmoid(-theirs)))
    return functional.kl_div(of_ours, of_theirs, reduction="none", log_target=True).sum(0)


@dataclass(frozen=True)
class SoftTargets(Method):
    """Knowledge distillation by softened class probabilities.

    Hinton, Vinyals & Dean (arXiv:1503.02531). The usual mixture on CIFAR is weight 0.9 with a task weight of 0.1.

    Args:
        weight: of the divergence.
        temperature: T, above 0; softens both distributions.
        activation: `softmax` of all classes together, or `sigmoid` of each by itself (several hot labels, one logit);
            None takes what the task's loss has, and `softmax` where it has none.

    Raises:
        ValueError: for a temperature of 0 or less.

    Departs from the paper: the Kullback–Leibler divergence stands for the cross-entropy with soft targets; they differ
    by the teacher's entropy, which has no gradient. Dense logits are compared at each position and averaged. With
    `sigmoid`, which the paper has not, the divergence is averaged over classes, too. Of several teachers the logits
    are averaged.
    """

    key: ClassVar[str] = "kd"
    averages_teachers: ClassVar[bool] = True
    dense_logits: ClassVar[bool] = True
    volumes: ClassVar[bool] = True

    weight: float = 0.9
    temperature: float = 4.0
    activation: Literal["softmax", "sigmoid"] | None = field(default=None, metadata={"newer": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)

    def suited(self, activation: Literal["softmax", "sigmoid"] | None) -> "SoftTargets":
        """With the activation of the task, unless it has one of its own."""
        return self if self.activation is not None else replace(self, activation=activation or "softmax")

    @property
    def makes_probabilities_by(self) -> Literal["softmax", "sigmoid"]:
        """Its activation."""
        return self.activation or "softmax"

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
        if teacher.logits.shape[2:] != student.logits.shape[2:]:
            sizes = tuple(teacher.logits.shape[2:]), tuple(student.logits.shape[2:])
            raise InputError(
                f"soft targets need logits at the same positions: the teacher has {sizes[0]}, the student {sizes[1]}; "
                "bring them to one size with teacher_logits= or student_logits=, functions of the output"
            )

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The divergence between softened class probabilities."""
        del batch, parts
        assert teacher.logits is not None
        assert student.logits is not None
        ours, theirs = student.logits, teacher.logits
        divergence = soft_binary_divergence if self.activation == "sigmoid" else soft_target_divergence
        value = divergence(ours, theirs, self.temperature)
        return {self.key: Term(value, of_images=lambda: self._of_images(ours, theirs))}

    def _of_images(self, student: Tensor, teacher: Tensor) -> Float[Tensor, " b"]:
        """The divergence of each image."""
        if self.activation == "sigmoid":
            return self.temperature**2 * _binary_divergences(student, teacher, self.temperature).flatten(1).mean(1)
        ours = functional.log_softmax(at_least_float32(student) / self.temperature, dim=1)
        theirs = functional.log_softmax(at_least_float32(teacher.detach()) / self.temperature, dim=1)
        each = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
        return self.temperature**2 * each.flatten(1).mean(1) if each.ndim > 1 else self.temperature**2 * each
