"""One step: the teacher runs, hands over what is replaced, the student runs, and the terms of the loss are computed."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.distiller.network_pair import Both
from attention_transfer.methods import Term
from attention_transfer.phases import Phase


@dataclass(frozen=True)
class Ran:
    """What a step came to.

    Args:
        terms: of the loss, by name.
        logits: of the student, (b, k); (b, 0) in a phase in which it does not run.
        teacher_logits: of the teacher, (b, k); None where nothing reads them.
    """

    terms: Mapping[str, Term]
    logits: Tensor
    teacher_logits: Tensor | None


def run(both: Both, parts: nn.ModuleDict, phase: Phase, batch: Batch, epoch: int) -> Ran:
    """Run both networks on a batch, and compute the terms that the phase minimises.

    Args:
        both: networks and methods.
        parts: what the methods learn.
        phase: of the training.
        batch: checked.
        epoch: counted from 0, for what remembers outputs of the teacher.
    """
    images, labels, index = batch.image, batch.label, batch.index
    teacher = both.read_teacher(images, labels, None if index is None else (epoch, index))
    student, logits = None, images.new_zeros(len(images), 0)
    if phase.runs_student:
        # Whether its parameters need a gradient is for their owner to say.
        with torch.no_grad() if phase.trains == "parts" else nullcontext():
            student = both.read_student(images, labels, teacher, parts)
        assert student.logits is not None
        logits = student.logits
    terms = both.terms(batch, teacher, student, parts, phase.counts)
    reads_logits = any(bound.reads.teacher.logits for bound in both.bound)
    return Ran(terms, logits, teacher.logits if teacher is not None and reads_logits else None)
