"""Student and teacher, read together for all methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.batch import UNLABELLED, Batch
from attention_transfer.capture import Reading, Replacement, Tap
from attention_transfer.distiller.binding import Bound, part, task_logits
from attention_transfer.distiller.observed_network import Network, Role
from attention_transfer.distiller.output import TASK
from attention_transfer.distiller.teacher import Teacher
from attention_transfer.errors import InputError
from attention_transfer.methods import Observed, Term
from attention_transfer.methods.layers.maps import at_least_float32


@dataclass(frozen=True)
class Both:
    """The two networks of a distiller and the methods that read them.

    Args:
        student: runs with a graph.
        teacher: runs without one; None where there is none.
        bound: all methods.
        task_weight: weight of the cross-entropy with the labels.
    """

    student: Network
    teacher: Teacher | None
    bound: Sequence[Bound]
    task_weight: float

    @property
    def models(self) -> dict[Role, nn.Module]:
        """The networks by their role, the student first."""
        found: dict[Role, nn.Module] = {"student": self.student.model}
        if self.teacher is not None:
            found["teacher"] = self.teacher.model
        return found

    def read_teacher(
        self, images: Tensor, labels: Tensor | None, place: tuple[int, Tensor] | None = None
    ) -> Reading | None:
        """Run the teacher once; None where there is none, or nothing is read of it.

        Args:
            images: as the student receives them.
            labels: class indices or probabilities, where its gradients are wanted.
            place: epoch, and dataset indices of the images, where they are known.
        """
        return None if self.teacher is None else self.teacher.read(images, labels, place)

    def read_student(
        self, images: Tensor, labels: Tensor | None, teacher: Reading | None, parts: nn.ModuleDict
    ) -> Reading:
        """Run the student once, with what methods give it from the teacher.

        Args:
            images: as it receives them.
            labels: class indices or probabilities, where its gradients are wanted.
            teacher: what was read of it.
            parts: what the methods learn.
        """
        return self.student.read(images, labels, self.replacements(teacher, parts))

    def replacements(self, teacher: Reading | None, parts: nn.ModuleDict) -> dict[Tap, Replacement]:
        """What the student is given in place of its own.

        Raises:
            ValueError: if two methods replace the same.
        """
        replaced: dict[Tap, Replacement] = {}
        for bound in self.bound:
            given = bound.method.replace(self.observed_teacher(teacher, bound), bound.reads, part(parts, bound.name))
            twice = sorted(str(tap) for tap in given.keys() & replaced.keys())
            if twice:
                raise InputError(f"two methods replace {', '.join(twice)} of the student: leave one of them out")
            replaced |= given
        return replaced

    def observed_teacher(self, seen: Reading | None, bound: Bound) -> Observed:
        """What one method sees of the teacher."""
        return Observed(None) if self.teacher is None else self.teacher.observed(seen, bound.of_teacher)

    def observed_student(self, seen: Reading | None, bound: Bound) -> Observed:
        """What one method sees of the student."""
        return Observed(None) if seen is None else self.student.observed(seen, bound.of_student)

    def terms(
        self,
        batch: Batch,
        teacher: Reading | None,
        student: Reading | None,
        parts: nn.ModuleDict,
        counts: Callable[[str], bool],
    ) -> dict[str, Term]:
        """All terms of the loss, by name.

        Args:
            batch: of both networks.
            teacher: what was read of it.
            student: what was read of it; None where it does not run.
            parts: what the methods learn.
            counts: whether a term of this name is minimised.

        Raises:
            ValueError: if two terms have the same name.
        """
        terms: dict[str, Term] = {}
        # Losses are float32 whatever the networks computed in.
        with torch.autocast(batch.image.device.type, enabled=False):
            if self.task_weight and student is not None:
                assert batch.label is not None
                logits = task_logits(self.bound, student)
                terms[TASK] = Term(_cross_entropy(at_least_float32(logits), batch.label), self.task_weight)
            for bound in filter(lambda bound: bound.counts(counts), self.bound):
                observed = self.observed_teacher(teacher, bound), self.observed_student(student, bound)
                found = bound.terms(batch, *observed, part(parts, bound.name))
                for name in found.keys() & terms.keys():
                    raise InputError(f"two terms are called {name!r}: a method's terms begin with its key")
                terms |= found
        return {name: term for name, term in terms.items() if counts(name)}

    def release(self) -> None:
        """Leave both networks without a hook, and the teacher's parameters as trainable as they came."""
        self.student.close()
        if self.teacher is not None:
            self.teacher.release()


def _cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """With class indices or probabilities; images without a label are left out."""
    value = functional.cross_entropy(logits, label)
    if label.ndim > 1:
        return value
    # An accelerator says one step late that there was no label at all: until then, no weight may become NaN by it.
    return torch.where((label != UNLABELLED).any(), value, 0.0)


class Deployed(nn.Module):
    """Student and teacher as one network from images to logits.

    Args:
        distiller: holds both; a module, so that modes and devices reach the networks.
        predict: its way from images to logits.
    """

    def __init__(self, distiller: nn.Module, predict: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.distiller = distiller
        self._predict = predict

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of the student, computed with its teacher."""
        return self._predict(images)
