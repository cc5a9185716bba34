"""What a step of a distiller gives.

>>> out = Output({"ce": Term(torch.tensor(2.0)), "kd": Term(torch.tensor(0.5), weight=0.9)}, torch.zeros(8, 10))
>>> out
Output(loss 2.45 = ce 2 × 1, kd 0.5 × 0.9)
>>> TASK, float(out.terms[TASK].weighted)
('ce', 2.0)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attention_transfer.capture.outputs import tensors_of
from attention_transfer.distiller.gradient_limits import Limits, sum_of
from attention_transfer.distiller.notes import Notes
from attention_transfer.methods import Term

TASK = "ce"


@dataclass(frozen=True, eq=False)
class Output:
    """What one step of a distiller gives.

    Args:
        terms: raw value and weight of each summand of the loss, by name; `ce` is the task's cross-entropy.
        student_logits: (batch, classes), or what `student_logits` names; of no classes in a phase in which the student
            does not run, and None where its output has none and nothing reads them.
        teacher_logits: same as `student_logits`, by name where there are several teachers; None where no method reads
            them, for then the teacher need not run to its end.
        limits: by what gradients are bounded; None where no term is.
        notes: told of a gradient of this step; None where there is nothing to say of it.
        student_output: what the student returned, as it came.
        teacher_output: what the teacher returned, by name where there are several; None where it was stopped after what
            is read of it, or its outputs come from a cache.
    """

    terms: Mapping[str, Term]
    student_logits: Float[Tensor, "b k ..."] | None
    teacher_logits: Float[Tensor, "b k ..."] | Mapping[str, Tensor | None] | None = None
    limits: Limits | None = None
    notes: Notes | None = None
    student_output: Any = None
    teacher_output: Any = None

    # Made when it is first asked for, outside of compiled code and of wrappers for several processes: the bounds of
    # gradients are then kept whatever a step was run by.
    @cached_property
    def loss(self) -> Float[Tensor, ""]:
        """Σ weight·value of the terms, to be minimised.

        Its gradient is right for every method: where a term limits its own, `out.loss.backward()` keeps to that, as
        does the gradient of any multiple of it.
        """
        # It may be asked for first where it is only to be shown.
        with torch.inference_mode(False), torch.enable_grad():
            values = [term.weighted for term in self.terms.values()]
            if not any(value.requires_grad for value in values):
                return sum_of(values)
            loss = sum_of(values) if self.limits is None else self.limits.loss(self.terms, self._outputs())
            if self.notes is not None:
                # Evaluation asks for no gradient, so whoever asks learns.
                loss.register_hook(self.notes.learning_in_evaluation)
            return loss

    def _outputs(self) -> list[Tensor]:
        """By what else the student may be differentiated."""
        found = [*tensors_of(self.student_output)]
        return found if self.student_logits is None else [*found, self.student_logits]

    def backward(self) -> None:
        """Accumulate the gradient of the step; the same as `out.loss.backward()`."""
        self.loss.backward()

    def __repr__(self) -> str:
        terms = ", ".join(f"{name} {_shown(term.value)} × {_shown(term.weight)}" for name, term in self.terms.items())
        return f"Output(loss {_shown(self.loss)} = {terms})"


# Wrappers for several processes look for tensors in what a module returns: parameters that only the logits reach need
# no gradient then (find_unused_parameters), and gradients are averaged (static_graph).
torch.export.register_dataclass(Output)
torch.export.register_dataclass(Term)


def _shown(number: float | Tensor) -> str:
    return f"{float(number.detach() if isinstance(number, Tensor) else number):.4g}"
