"""One step: the teacher runs, hands over what is replaced, the student runs, and the terms of the loss are computed."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.torch_version import TorchVersion

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


COMPILES_FROM = "2.10"
"""The first version of torch that compiles a distiller to what it computes.

Compilers before it cannot look up dataclasses, run `nn.MultiheadAttention` in one piece that nobody can look into, and
where they give up half-way, what a method puts in place of attention can get lost without a word.
"""

# Classes whose forward pass is left to run as it is written.
_LEFT: set[type[nn.Module]] = set()


def compiles() -> bool:
    """Whether the installed torch compiles a distiller; others run it as it is."""
    return TorchVersion(torch.__version__) >= TorchVersion(COMPILES_FROM)


def leave_uncompiled_where_it_must_be(kind: type[nn.Module]) -> None:
    """Let the forward pass of a class run as it is written inside of compiled code, where torch cannot compile it.

    Done when the first object is made and not where the class is defined, for `torch.compiler.disable` loads the
    compiler, which takes longer than the rest of this package.
    """
    if not compiles() and kind not in _LEFT:
        _LEFT.add(kind)
        kind.forward = torch.compiler.disable(kind.forward)  # pyright: ignore[reportAttributeAccessIssue]
