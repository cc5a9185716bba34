"""Methods tied to one pair of networks."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture import Reading, Tap
from attention_transfer.distiller.network import Role, Wanted
from attention_transfer.methods import Method, Observed, Reads
from attention_transfer.models import Description, describe, with_attention


@dataclass
class Bound:
    """One method with what it reads, tied to this pair of networks."""

    method: Method
    name: str
    reads: Reads
    scheduled: Tensor | None = None

    @property
    def weight(self) -> float | Tensor:
        """Of the method in the current epoch."""
        return self.method.weight if self.scheduled is None else self.scheduled

    @property
    def of_teacher(self) -> Wanted:
        """What it reads of the teacher."""
        reads = self.reads
        return Wanted(
            reads.teacher,
            reads.teacher_logits,
            self._pooled(reads.teacher),
            reads.teacher_gradient,
            attention=reads.teacher_attention,
        )

    @property
    def of_student(self) -> Wanted:
        """What it reads of the student."""
        reads = self.reads
        return Wanted(
            reads.student,
            True,
            self._pooled(reads.student),
            reads.student_gradient,
            reads.flipped_gradient,
            reads.student_attention,
        )

    def parts(self, teacher: Observed, student: Observed) -> nn.Module | None:
        """What it learns beside the student.

        Raises:
            ValueError: if the shapes cannot be matched.
        """
        with _said_by(self.method):
            return self.method.parts(teacher, student)

    def _pooled(self, taps: tuple[Tap, ...]) -> tuple[Tap, ...]:
        return taps if self.reads.heads else ()


def bind(methods: Sequence[Method], teacher: Description | None, student: Description) -> list[Bound]:
    """Each method with its settings decided and its reading found, under a name of its own.

    Raises:
        ValueError: if the networks lack what a method reads.
    """
    bound: list[Bound] = []
    for method, name in zip(methods, _names(methods), strict=True):
        with _said_by(method):
            decided = method.resolved(teacher, student)
            reads = decided.reads(teacher, student)
        bound.append(Bound(decided, name, reads, None if method.schedule.constant else torch.tensor(0.0)))
    return bound


def task_logits(bound: Sequence[Bound], reading: Reading) -> Tensor:
    """What the task's cross-entropy is of: the student's logits, or a place that a method names instead.

    Raises:
        ValueError: if two methods name different places.
    """
    named = list(dict.fromkeys(each.reads.task_logits for each in bound if each.reads.task_logits is not None))
    if len(named) > 1:
        raise ValueError(f"two methods want the labels learned at {' and '.join(map(str, named))}: leave one out")
    logits = reading.values[named[0]] if named else reading.logits
    assert logits is not None
    return logits


def check_methods(methods: Sequence[Method]) -> None:
    """Refuse anything but a sequence of methods.

    Raises:
        TypeError: for it.
    """
    if not isinstance(methods, Sequence) or not all(isinstance(method, Method) for method in methods):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"methods must be a list of methods such as [AttentionTransfer(weight=1000.0)], not {methods!r}"
        )


def described(model: nn.Module, image: Float[Tensor, "b 3 h w"], methods: Sequence[Method], role: Role) -> Description:
    """What can be read from a network, its attention layers included where a method reads them.

    Args:
        model: the network.
        image: of the kind that it receives.
        methods: all of them.
        role: for messages.
    """
    description = describe(model)
    if any(method.reads_attention for method in methods):
        return with_attention(description, model, image, role)
    return description


@contextmanager
def _said_by(method: Method) -> Generator[None]:
    """Say which method refused: with several, a message about heads or layers may be any one's."""
    try:
        yield
    except ValueError as error:
        error.add_note(
            f"({method.key} says so: what it can be told are fields of {type(method).__name__}; on the command line a "
            f"field such as `weight` is --{method.key}.weight)"
        )
        raise


def _names(methods: Sequence[Method]) -> list[str]:
    """The key of each method; the second of a kind is `at2`, and so on."""
    names: list[str] = []
    for i, method in enumerate(methods):
        count = sum(other.key == method.key for other in methods[: i + 1])
        names.append(method.key if count == 1 else f"{method.key}{count}")
    return names
