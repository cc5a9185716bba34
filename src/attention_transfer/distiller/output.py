"""What a step of a distiller gives."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from attention_transfer.methods import Term

TASK = "ce"


@dataclass(frozen=True)
class Output:
    """What one step of a distiller gives.

    Args:
        loss: Σ weight·value of the terms, to be minimised.
        terms: raw value and weight of each summand, by name; `ce` is the task's cross-entropy.
        student_logits: (batch, classes); of no classes in a phase in which the student does not run.
        teacher_logits: likewise; None where no method reads them, for then the teacher need not run to its end.
    """

    loss: Float[Tensor, ""]
    terms: Mapping[str, Term]
    student_logits: Float[Tensor, "b k"]
    teacher_logits: Float[Tensor, "b k"] | None
