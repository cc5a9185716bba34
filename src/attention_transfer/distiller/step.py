"""One step: the teacher runs, hands over what is replaced, the student runs, and the terms of the loss are computed."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import Images, Reading
from attention_transfer.capture.outputs import first_image
from attention_transfer.distiller.gradient_limits import Limits
from attention_transfer.distiller.network_pair import Both, Readings
from attention_transfer.distiller.notes import Notes
from attention_transfer.distiller.observed_network import STUDENT, Role
from attention_transfer.distiller.output import Output
from attention_transfer.distiller.teacher_dropping import Dropped
from attention_transfer.methods import Term
from attention_transfer.phases import Phase


@dataclass(frozen=True)
class Ran:
    """What a step came to.

    Args:
        terms: of the loss, by name.
        student: what was read of it; None in a phase in which it does not run.
        teachers: what was read of each.
    """

    terms: Mapping[str, Term]
    student: Reading | None
    teachers: Readings

    def logits(self, both: Both) -> dict[Role, Tensor | None]:
        """Those of each network, by its role."""
        seen = {STUDENT: self.student} | {both.teachers[name].role: each for name, each in self.teachers.items()}
        return {role: None if reading is None else reading.logits for role, reading in seen.items()}


def run(both: Both, parts: nn.ModuleDict, phase: Phase, batch: Batch, epoch: int) -> Ran:
    """Run all networks on a batch, and compute the terms that the phase minimises.

    Args:
        both: networks and methods.
        parts: what the methods learn.
        phase: of the training.
        batch: checked.
        epoch: counted from 0, for what remembers outputs of a teacher, and for what is drawn.
    """
    images, labels, index = batch.image, batch.label, batch.index
    teachers = both.read_teachers(images, labels, None if index is None else (epoch, index))
    student = None
    if phase.runs_student:
        # Whether its parameters need a gradient is for their owner to say.
        with torch.no_grad() if phase.trains == "parts" else nullcontext():
            student = both.read_student(images, labels, teachers, parts)
    dropped = Dropped(both.dropping, epoch) if both.dropping and student is not None else None
    return Ran(both.terms(batch, teachers, student, parts, phase.counts, dropped), student, teachers)


def output_of(both: Both, ran: Ran, images: Images, limits: Limits | None, notes: Notes | None) -> Output:
    """What the caller of a step is given.

    Args:
        both: networks and methods.
        ran: what the step came to.
        images: of the batch.
        limits: by what gradients are bounded; None where no term is.
        notes: told of a gradient of this step; None where there is nothing to say of it.
    """
    first, student = first_image(images), ran.student
    logits = first.new_zeros(len(images), 0) if student is None else student.logits
    read = {name for bound in both.bound if bound.reads.teacher.logits for name in bound.teachers}
    of_teachers = {name: None if seen is None else seen.logits for name, seen in ran.teachers.items()}
    of_teachers = {name: values if name in read else None for name, values in of_teachers.items()}
    outputs = {name: None if seen is None else seen.output for name, seen in ran.teachers.items()}
    return Output(
        ran.terms,
        logits,
        _one_or_all(of_teachers),
        limits,
        notes,
        None if student is None else student.output,
        _one_or_all(outputs),
    )


def _one_or_all(values: Mapping[str, Any]) -> Any:
    """What is of the only teacher, or of several by name; None of none."""
    return next(iter(values.values()), None) if len(values) < 2 else dict(values)
