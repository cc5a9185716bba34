"""Student and teacher, read together for all methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import Images, Reading, Replacement, Tap
from attention_transfer.capture.outputs import first_image
from attention_transfer.distiller.binding import Bound, part, task_logits
from attention_transfer.distiller.observed_network import STUDENT, Network, Role
from attention_transfer.distiller.setup import Task
from attention_transfer.distiller.task_loss import OwnLoss
from attention_transfer.distiller.teacher import Teacher
from attention_transfer.distiller.teacher_dropping import Dropped
from attention_transfer.errors import InputError
from attention_transfer.methods import Observed, Term

Readings = Mapping[str, Reading | None]
"""What was read of each teacher, by name; None of one that nothing is read of."""


@dataclass(frozen=True)
class Both:
    """The networks of a distiller and the methods that read them.

    Args:
        student: runs with a graph.
        teachers: run without one, by name.
        bound: all methods.
        task: what the labels ask of the student; None where nobody learns from them here.
        dropping: with which probability a teacher is left out for an image.
    """

    student: Network
    teachers: Mapping[str, Teacher]
    bound: Sequence[Bound]
    task: Task | None
    dropping: float = 0.0

    @property
    def models(self) -> dict[Role, nn.Module]:
        """The networks by their role, the student first."""
        found: dict[Role, nn.Module] = {STUDENT: self.student.model}
        return found | {teacher.role: teacher.model for teacher in self.teachers.values()}

    def read_teachers(self, images: Images, labels: Any, place: tuple[int, Tensor] | None = None) -> Readings:
        """Run each teacher once, one after the other.

        Args:
            images: as the student receives them.
            labels: class indices or probabilities, where gradients are wanted.
            place: epoch, and dataset indices of the images, where they are known.
        """
        return {name: teacher.read(images, labels, place) for name, teacher in self.teachers.items()}

    def read_student(self, images: Images, labels: Any, teachers: Readings, parts: nn.ModuleDict) -> Reading:
        """Run the student once, with what methods give it from the teachers.

        Args:
            images: as it receives them.
            labels: class indices or probabilities, where its gradients are wanted.
            teachers: what was read of them.
            parts: what the methods learn.
        """
        return self.student.read(images, labels, self.replacements(teachers, parts))

    def replacements(self, teachers: Readings, parts: nn.ModuleDict) -> dict[Tap, Replacement]:
        """What the student is given in place of its own.

        Raises:
            ValueError: if two methods replace the same.
        """
        replaced: dict[Tap, Replacement] = {}
        for bound in self.bound:
            given = bound.method.replace(self.observed_teacher(teachers, bound), bound.reads, part(parts, bound.name))
            twice = sorted(str(tap) for tap in given.keys() & replaced.keys())
            if twice:
                raise InputError(f"two methods replace {', '.join(twice)} of the student: leave one of them out")
            replaced |= given
        return replaced

    def observed_teacher(self, teachers: Readings, bound: Bound) -> Observed:
        """What one method sees of its teacher; of several, the mean of their logits."""
        seen = [self.teachers[name].observed(teachers.get(name), bound.of_teacher) for name in bound.teachers]
        if not seen:
            return Observed(None)
        if len(seen) == 1:
            return seen[0]
        # Of probabilities or of logits? Of logits, as ensembles of teachers are usually averaged.
        logits = [each.logits for each in seen if each.logits is not None]
        return Observed(torch.stack(logits).mean(0) if len(logits) == len(seen) else None)

    def observed_student(self, seen: Reading | None, bound: Bound) -> Observed:
        """What one method sees of the student."""
        return Observed(None) if seen is None else self.student.observed(seen, bound.of_student)

    def terms(
        self,
        batch: Batch,
        teachers: Readings,
        student: Reading | None,
        parts: nn.ModuleDict,
        counts: Callable[[str], bool],
        dropped: Dropped | None = None,
    ) -> dict[str, Term]:
        """All terms of the loss, by name.

        Args:
            batch: of all networks.
            teachers: what was read of them.
            student: what was read of it; None where it does not run.
            parts: what the methods learn.
            counts: whether a term of this name is minimised.
            dropped: leaves out teachers for single images; None keeps all.

        Raises:
            ValueError: if two terms have the same name.
        """
        terms: dict[str, Term] = {}
        # Losses are float32 whatever the networks computed in.
        with torch.autocast(first_image(batch.image).device.type, enabled=False):
            if self.task is not None and student is not None:
                terms[self.task.loss.key] = Term(self.task_value(student, batch.label), self.task.weight)
            of_teachers: dict[str, dict[str, Term]] = {}
            for bound in filter(lambda bound: bound.counts(counts), self.bound):
                observed = self.observed_teacher(teachers, bound), self.observed_student(student, bound)
                found = bound.terms(batch, *observed, part(parts, bound.name))
                for name in found.keys() & terms.keys():
                    raise InputError(f"two terms are called {name!r}: a method's terms begin with its key")
                terms |= found
                of_teachers.setdefault("+".join(bound.teachers), {}).update(found)
            if dropped is not None:
                terms |= dropped(of_teachers, batch)
        # What computes values of single images holds the graph, and has no use outside.
        return {name: replace(term, of_images=None) for name, term in terms.items() if counts(name)}

    def task_value(self, student: Reading, labels: Any) -> Tensor:
        """What the task's loss is of the student's output."""
        assert self.task is not None
        loss = self.task.loss
        if isinstance(loss, OwnLoss):
            return loss.value(student.output, labels)
        assert labels is not None
        return loss.value(task_logits(self.bound, student), labels)

    def predict(self, images: Images, parts: nn.ModuleDict, *, replaces: bool) -> Any:
        """What the student returns as it is used after training: its logits where it has some, or what it returns.

        Args:
            images: as it receives them.
            parts: what the methods learn.
            replaces: whether a method replaces something in it, with what its teacher gives for these images.
        """
        seen = self.read_student(images, None, self.read_teachers(images, None) if replaces else {}, parts)
        return seen.output if seen.logits is None else seen.logits

    def name_of(self, teacher: str | None) -> str:
        """The name of a teacher; of the only one where none is said.

        Raises:
            InputError: for a name that none has, and for none where there are several.
        """
        names = list(self.teachers)
        if teacher is None and len(names) == 1:
            return names[0]
        if teacher not in names:
            if not names:
                raise InputError("there is no teacher")
            raise InputError(f"there are the teachers {', '.join(map(repr, names))}: name one of them, not {teacher!r}")
        return str(teacher)

    def release(self) -> None:
        """Leave all networks without a hook, and the teachers' parameters as trainable as they came."""
        self.student.close()
        for teacher in self.teachers.values():
            teacher.release()


class Deployed(nn.Module):
    """Student and teacher as one network from images to logits.

    Args:
        distiller: holds both; a module, so that modes and devices reach the networks.
        predict: its way from images to logits.
    """

    def __init__(self, distiller: nn.Module, predict: Callable[[Images], Any]) -> None:
        super().__init__()
        self.distiller = distiller
        self._predict = predict

    def forward(self, images: Images) -> Any:
        """Logits of the student, computed with its teacher."""
        return self._predict(images)
