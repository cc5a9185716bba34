"""Methods tied to one pair of networks."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import Images, Provider, Reading, Tap
from attention_transfer.capture.outputs import first_image
from attention_transfer.distiller.observed_network import Role
from attention_transfer.distiller.task_loss import CrossEntropy, TaskLoss
from attention_transfer.errors import InputError
from attention_transfer.memory_budget import ChecksMemory
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term
from attention_transfer.models import Description, describe, with_attention, with_places
from attention_transfer.phases import Phase

# Dimensions of volumes, and of logits of images.
_VOLUMES, _OF_IMAGES = 5, 2


@dataclass
class Bound:
    """One method with what it reads, tied to this pair of networks.

    Args:
        method: with its settings decided.
        name: of its parts, and how its terms begin.
        reads: what it wants to see.
        teachers: names of those that it learns from; several where it averages their logits.
        share: weight of its teacher, which multiplies its own.
        scheduled: its weight in the current epoch, where that changes.
        term_names: what its terms are called; known once they have been computed.
    """

    method: Method
    name: str
    reads: Reads
    teachers: tuple[str, ...] = ()
    share: float = 1.0
    scheduled: Tensor | None = None
    term_names: frozenset[str] | None = None

    @property
    def weight(self) -> float | Tensor:
        """Of the method in the current epoch."""
        return self.share * self.method.weight if self.scheduled is None else self.scheduled

    def set_epoch(self, epoch: int) -> None:
        """Move its weight to an epoch of the phase, counted from 0."""
        if self.scheduled is not None:
            self.scheduled.fill_(self.share * self.method.weight * self.method.schedule.factor(epoch))

    @property
    def of_teacher(self) -> Request:
        """What it reads of its teacher."""
        return self.reads.teacher

    @property
    def reads_logits(self) -> frozenset[str]:
        """Of which networks it reads logits: `teacher`, `student`, or both."""
        of_teacher = self.reads.teacher.logits or bool(self.reads.teacher.gradients)
        of_student = of_teacher or self.reads.student.logits or self.reads.differentiates
        return frozenset(role for role, reads in (("teacher", of_teacher), ("student", of_student)) if reads)

    @property
    def of_student(self) -> Request:
        """What it reads of the student, whose logits are always there."""
        return replace(self.reads.student, logits=True)

    @property
    def task_tap(self) -> Tap | None:
        """The tap of the student that the task's cross-entropy is of, where that is not the logits."""
        return self.method.task_tap(self.reads)

    def parts(
        self, teacher: Observed, student: Observed, train_labels: Tensor | None, like: Images
    ) -> nn.Module | None:
        """What it learns beside the student.

        Args:
            teacher: as the probe saw it.
            student: same as for `teacher`.
            train_labels: class indices of all training images, where they are known.
            like: images, which give device and type.

        Raises:
            ValueError: if the shapes cannot be matched, labels of the training images are needed and missing, or the
                device cannot hold it.
        """
        with _said_by(self.method):
            image = first_image(like)
            self._check_logits(teacher, student)
            self.method.check(teacher, student)
            parts = self.method.parts(teacher, student)
            self.method.given_labels(parts, train_labels)
            if isinstance(parts, ChecksMemory):
                parts.check_memory(len(like), image.device)
            return None if parts is None else parts.to(image.device, at_least_float32(image).dtype)

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> dict[str, Term]:
        """Its loss terms under names of its own, with its weight."""
        found = self.method.terms(batch, teacher, student, parts)
        if self.term_names is None:
            with _said_by(self.method):
                _check_terms(found)
        terms: dict[str, Term] = {}
        for name, term in found.items():
            terms[self._own(name)] = replace(term, weight=self.weight * term.weight) if term.scales else term
        if self.term_names is None:
            self.term_names = frozenset(terms)
        return terms

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those of the method, which knows its terms by its key, with the terms' own names."""
        return tuple(
            replace(
                phase,
                terms=None if phase.terms is None else tuple(map(self._own, phase.terms)),
                without=tuple(map(self._own, phase.without)),
            )
            for phase in self.method.phases
        )

    def counts(self, counts: Callable[[str], bool]) -> bool:
        """Whether any of its terms does, as far as they are known."""
        return self.term_names is None or any(counts(name) for name in self.term_names)

    def check_data(self, example: Images, loss: object) -> None:
        """Refuse data that the method is not for.

        Args:
            example: images.
            loss: of the task, by whose name labels are known; None where there is none.

        Raises:
            InputError: for volumes, or labels of another kind than classes.
        """
        kind = type(self.method).__name__
        if isinstance(example, Tensor) and example.ndim == _VOLUMES and not self.method.volumes:
            raise InputError(
                f"{self.name}: {kind} is for images, (batch, channels, height, width), not for volumes of shape "
                f"{tuple(example.shape)}: take at, fitnet, rkd or kd"
            )
        needs = self.reads.batch
        if (needs.labels or needs.class_indices) and isinstance(loss, TaskLoss) and not isinstance(loss, CrossEntropy):
            raise InputError(
                f"{self.name}: {kind} reads labels, which are class indices or class probabilities, and those of "
                f"task_loss={loss.name!r} are others: leave the method out, or learn by the cross-entropy"
            )

    def _check_logits(self, teacher: Observed, student: Observed) -> None:
        """Refuse logits of a dimension that the method does not know."""
        for role, observed in (("teacher", teacher), ("student", student)):
            logits = observed.logits if role in self.reads_logits else None
            if logits is not None and logits.ndim != _OF_IMAGES and not self.method.dense_logits:
                raise InputError(
                    f"{self.name}: {type(self.method).__name__} is for logits of one row per image, not for the "
                    f"{role}'s, of shape {tuple(logits.shape)}: take kd, or a method without logits such as at"
                )

    def _own(self, term: str) -> str:
        return self.name + term.removeprefix(self.method.key) if term.startswith(self.method.key) else term


def bind(
    methods: Sequence[Method],
    teachers: Mapping[str, Description],
    student: Description,
    shares: Mapping[str, float],
    activation: Literal["softmax", "sigmoid"] | None,
) -> list[Bound]:
    """Each method with its settings decided and its reading found, under a name of its own.

    Args:
        methods: each of one teacher, or of several that it averages.
        teachers: what can be read of them, by name.
        student: what can be read of it.
        shares: weights of the teachers, by name.
        activation: see `Method.suited`.

    Raises:
        ValueError: if the networks lack what a method reads.
    """
    bound: list[Bound] = []
    for method, name in zip(methods, term_names(methods, len(teachers)), strict=True):
        with _said_by(method):
            names = _teachers_of(method, teachers)
            each = [_read_by(method.suited(activation), teachers[one], student) for one in names]
            decided, reads = each[0] if each else _without_teacher(method.suited(activation), teachers, student)
            if len(each) > 1 and (reads.teacher.taps or reads.teacher.attention or reads.teacher.provide):
                raise InputError(
                    f"{name}: the logits of several teachers can be averaged, and more than these is read: use the "
                    "method once for each teacher"
                )
        if not each or not reads.teacher.anything:
            names = ()
        scheduled = None if method.schedule.constant else torch.tensor(0.0)
        share = shares[names[0]] if len(names) == 1 else 1.0
        bound.append(Bound(decided, name, reads, names, share, scheduled))
    return bound


def _teachers_of(method: Method, teachers: Collection[str]) -> tuple[str, ...]:
    """Names of the teachers of a method; none where it says none and there is no single one."""
    if method.teacher is None:
        return tuple(teachers) if len(teachers) == 1 else ()
    return (method.teacher,) if isinstance(method.teacher, str) else method.teacher


def _read_by(method: Method, teacher: Description | None, student: Description) -> tuple[Method, Reads]:
    decided = method.resolved(teacher, student)
    reads = decided.reads(teacher, student)
    _check_reads(decided, reads)
    return decided, reads


def _without_teacher(method: Method, teachers: Collection[str], student: Description) -> tuple[Method, Reads]:
    """What a method reads that learns from the student alone."""
    try:
        return _read_by(method, None, student)
    except InputError as error:
        if not teachers:
            raise
        raise InputError(
            f"{method.key} must say which teacher it learns from, of {', '.join(map(repr, teachers))}: give "
            f"{type(method).__name__}(teacher={next(iter(teachers))!r}), or several in a tuple"
        ) from error


def _check_reads(method: Method, reads: Any) -> None:
    """Refuse what is no description of what a method reads, or the task of a value that it does not read."""
    if not isinstance(reads, Reads):
        raise InputError(f"reads must return a Reads(teacher, student, batch), not {reads!r:.200}")
    for role, request in (("teacher", reads.teacher), ("student", reads.student)):
        if not isinstance(cast(object, request), Request):
            raise InputError(f"Reads: {role} must be a Request, as in Request((tap,)), not {request!r:.200}")
        for name, kind in (("taps", Tap), ("attention", Tap), ("provide", Provider)):
            given = getattr(request, name)
            if not isinstance(given, tuple) or not all(isinstance(each, kind) for each in cast("tuple[Any]", given)):
                raise InputError(
                    f"{name} of the {role}'s Request must be a tuple of objects of the class {kind.__name__}, not "
                    f"{given!r:.200}"
                )
    tap = method.task_tap(reads)
    if tap is not None and tap not in reads.student.taps:
        raise InputError(f"task_tap gives {tap}, which is none of the student's taps in reads: ask for it there, too")


def _check_terms(found: Mapping[str, Any]) -> None:
    """Refuse terms that cannot be summed."""
    for name, term in found.items():
        if not isinstance(term, Term):
            raise InputError(f"the term {name!r} must be a Term(value), not a value of type {type(term).__name__}")
        if term.value.ndim:
            raise InputError(
                f"the value of the term {name!r} must be a scalar, not of shape {tuple(term.value.shape)}: average "
                "over the images, as in value.mean()"
            )


def part(parts: nn.ModuleDict, name: str) -> nn.Module | None:
    """What a method learns, if it learns anything."""
    return dict(parts.items()).get(name)


def task_logits(bound: Sequence[Bound], reading: Reading) -> Tensor:
    """What the task's cross-entropy is of: the student's logits, or a place that a method names instead.

    Raises:
        ValueError: if two methods name different places.
    """
    named = list(dict.fromkeys(each.task_tap for each in bound if each.task_tap is not None))
    if len(named) > 1:
        raise InputError(f"two methods want the labels learned at {' and '.join(map(str, named))}: leave one out")
    logits = reading.values[named[0]] if named else reading.logits
    assert logits is not None
    return logits


def described(model: nn.Module, image: Images, methods: Sequence[Method], role: Role) -> Description:
    """What can be read from a network, its attention layers included where a method reads them.

    Args:
        model: the network.
        image: of the kind that it receives.
        methods: all of them.
        role: for messages.
    """
    description = describe(model)
    if _must_be_seen(description, methods, role):
        description = with_places(description, model, image)
    if any(method.reads_attention for method in methods):
        if not isinstance(image, Tensor):
            raise InputError("attention is read of networks that take images in one tensor, not in a list of images")
        return with_attention(description, model, image, role)
    return description


def _must_be_seen(description: Description, methods: Sequence[Method], role: Role) -> bool:
    """Whether the structure of a network does not tell how what is read of it lies."""
    tokens = any(stage.output.layout == "tokens" for stage in description.stages)
    named = any(
        getattr(method, f"{role.partition(' ')[0]}_{what}", None) for method in methods for what in ("layers", "layer")
    )
    return bool(methods) and (tokens or named or not description.stages)


@contextmanager
def _said_by(method: Method) -> Generator[None]:
    """Say which method refused: with several, a message about heads or layers may be any one's."""
    try:
        yield
    except InputError as error:
        error.add_note(
            f"(raised by {method.key}: its options are the fields of {type(method).__name__}; on the command line a "
            f"field such as `weight` is --{method.key}.weight)"
        )
        raise


def term_names(methods: Sequence[Method], teachers: int) -> list[str]:
    """What the terms of each method are called.

    By its own `term`, or its key, with the name of its teacher where there are several; the second of a kind is `at2`.

    Args:
        methods: each of one teacher, or of several that it averages.
        teachers: how many there are.

    Raises:
        InputError: for two of one name.
    """
    names: list[str] = []
    for method in methods:
        of = () if method.teacher is None or teachers < 2 else method.teacher
        usual = method.key + (f":{of if isinstance(of, str) else '+'.join(of)}" if of else "")
        taken = sum(other == usual or (other.startswith(usual) and other[len(usual) :].isdigit()) for other in names)
        name = method.term or (usual if not taken else f"{usual}{taken + 1}")
        if name in names:
            raise InputError(
                f"two methods are called {name!r}: give each a name of its own, {type(method).__name__}(term=...)"
            )
        names.append(name)
    return names
