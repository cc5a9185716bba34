"""What a method is: a description of what it reads, learns, replaces and minimises. It never runs a model.

>>> import torch
>>> Term(torch.tensor(2.0), weight=0.5).weighted
tensor(1.)
>>> Reads(Request(logits=True), batch=Needs(labels=True)).teacher.anything
True
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

from jaxtyping import Float, Int64
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import Attention, Provider, Replacement, Tap
from attention_transfer.capture.input_gradients import InputGradient
from attention_transfer.capture.reading import Provided
from attention_transfer.errors import InputError
from attention_transfer.models.introspection.description import Description
from attention_transfer.phases import Phase
from attention_transfer.schedule import Schedule
from attention_transfer.settings import Settings


@dataclass(frozen=True)
class GradientLimit:
    """A rule that bounds a term's gradient by the task's, for each parameter by itself.

    The term's gradient is scaled down so that its norm is at most `ratio` times that of the task's gradient.

    Example:
        >>> import torch
        >>> limit = GradientLimit(lambda epoch: 1.0 if epoch < 10 else 0.5)
        >>> Term(torch.tensor(3.0), weight=2.0, limit=limit).weighted
        tensor(6.)

    Args:
        ratio: at least 0, as a function of the epochs that the phase has lasted, from 0.
    """

    ratio: Callable[[int], float]


@dataclass(frozen=True)
class Term:
    """One summand of the loss; weight and raw value stay apart so that runs can be compared.

    Args:
        value: the raw value, a scalar.
        weight: multiplies it; a scalar tensor where a schedule changes it, so that compiled code need not be made anew.
        limit: how its gradient is bounded against the task's, if at all.
        scales: whether the method's own weight and its schedule multiply it, too; they do not where a method learns
            something beforehand, with a learning rate of its own.
        of_images: computes the value of each image by itself, of which `value` is the mean; None where images are
            compared with each other. Teachers can be dropped for single images only where all their terms have it.
    """

    value: Float[Tensor, ""]
    weight: float | Float[Tensor, ""] = 1.0
    limit: GradientLimit | None = None
    scales: bool = True
    of_images: Callable[[], Float[Tensor, " b"]] | None = None

    @property
    def weighted(self) -> Float[Tensor, ""]:
        """What enters the loss."""
        return self.weight * self.value


@dataclass(frozen=True)
class Request:
    """What a method wants to see of one network.

    Args:
        taps: module paths whose values are read, in the order in which the method receives them.
        logits: whether the network must run to its end; a student always does.
        attention: attention layers, in the order in which the method receives them.
        provide: what it needs beyond that, which few methods do, such as an `InputGradient`.
    """

    taps: tuple[Tap, ...] = ()
    logits: bool = False
    attention: tuple[Tap, ...] = ()
    provide: tuple[Provider[Any], ...] = ()

    @property
    def gradients(self) -> tuple[InputGradient, ...]:
        """Those with respect to the image, for which the network is differentiated inside the step."""
        return tuple(each for each in self.provide if isinstance(each, InputGradient))

    @property
    def anything(self) -> bool:
        """Whether the network must run at all."""
        return bool(self.taps or self.attention or self.provide) or self.logits


@dataclass(frozen=True)
class Needs:
    """What a method needs of a batch beside its images.

    Args:
        labels: class indices or probabilities.
        class_indices: whether labels, where there are any, must be class indices; images cannot be mixed then.
        unlabelled: whether it can do with class indices of -100, of images without a label, though it reads labels;
            where it cannot, such batches are refused.
        index: the dataset index of each image.
        minimum: number of images of which its terms say anything; where processes share a batch, of all together.
    """

    labels: bool = False
    class_indices: bool = False
    unlabelled: bool = False
    index: bool = False
    minimum: int = 1


@dataclass(frozen=True)
class Reads:
    """What a method wants to see of both networks and of the batch.

    Args:
        teacher: of the teacher.
        student: of the student.
        batch: of the images of a step.
    """

    teacher: Request = Request()
    student: Request = Request()
    batch: Needs = Needs()

    @property
    def differentiates(self) -> bool:
        """Whether any gradient with respect to the image is read."""
        return bool(self.teacher.gradients or self.student.gradients)


# Compilers cannot call `dict[Provider[Any], Any]`.
def _none() -> dict[Provider[Any], Any]:
    return {}


@dataclass(frozen=True)
class Observed:
    """What one method sees of one network in one step.

    Example:
        >>> import torch
        >>> seen = Observed(torch.zeros(2, 10), features=(torch.rand(2, 64, 8, 8),), taps=(Tap("layer1"),))
        >>> [(str(tap), value.shape[1]) for tap, value in zip(seen.taps, seen.features)]
        [('layer1', 64)]

    Args:
        logits: of the network; None where nothing asked for them, or in a phase in which it does not run.
        features: one value per tap of the `Request`, in its order; spatial ones as (batch, channels, height, width).
        attention: one per attention layer of the `Request`, in its order, as the network computed it itself.
        taps: where features and then attention were read.
        provided: what was provided, by what asked for it.
    """

    logits: Float[Tensor, "b k"] | None
    features: tuple[Tensor, ...] = ()
    attention: tuple[Attention, ...] = ()
    taps: tuple[Tap, ...] = ()
    provided: Mapping[Provider[Any], Any] = field(default_factory=_none)

    def __getitem__(self, provider: Provider[Provided]) -> Provided:
        """What a provider of the `Request` gave."""
        return cast("Provided", self.provided[provider])


@dataclass(frozen=True)
class Method(Settings, ABC):
    """Base of every method.

    Example:
        A method is a key, what it reads, and its terms; `examples/own_method.py` is a whole one.

        >>> @dataclass(frozen=True)
        ... class LogitMatching(Method):
        ...     key = "logits"
        ...
        ...     def reads(self, teacher, student):
        ...         return Reads(Request(logits=True))
        ...
        ...     def terms(self, batch, teacher, student, parts):
        ...         return {self.key: Term((student.logits - teacher.logits).square().mean())}
        >>> LogitMatching(weight=0.5)
        LogitMatching(weight=0.5, schedule=Schedule(...), teacher=None, term=None)

    Args:
        weight: multiplies every term of the method; at least 0.
        schedule: how the weight changes from epoch to epoch.
        teacher: by name, where there are several; of several names the method is used once for each, or averages their
            logits where it reads nothing else (`averages_teachers`). None takes the only teacher.
        term: what its terms are called, where a method stands several times; None takes its key, with the name of the
            teacher where there are several.

    Raises:
        SettingError: for a setting that does not exist, or a value of another type than it has.
    """

    key: ClassVar[str]
    reads_attention: ClassVar[bool] = False
    # Whether a teacher that is smaller than its student is nothing unusual.
    smaller_teacher: ClassVar[bool] = False
    # Settings that are numbers of epochs, which a shorter or longer training scales.
    epoch_settings: ClassVar[tuple[str, ...]] = ()
    # Whether several teachers can be one to it, whose logits are the mean of theirs.
    averages_teachers: ClassVar[bool] = False
    # Whether logits that it reads may be of every position (segmentation), not of the image alone.
    dense_logits: ClassVar[bool] = False
    # Whether it can do with volumes, (batch, channels, time, height, width), instead of images.
    volumes: ClassVar[bool] = False

    weight: float = 1.0
    schedule: Schedule = field(default_factory=Schedule)
    # Said where the method is named, not by flags of their own.
    teacher: str | tuple[str, ...] | None = field(default=None, kw_only=True, metadata={"flag": False, "newer": True})
    term: str | None = field(default=None, kw_only=True, metadata={"flag": False, "newer": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"the weight of {self.key} must be a finite number of at least 0, not {self.weight}")
        if self.term is not None and not re.fullmatch(r"[A-Za-z][\w:+-]*", self.term, re.ASCII):
            raise InputError(f"term of {self.key} must be a name of letters, digits, - and _, not {self.term!r}")
        if self.teacher == ():
            raise InputError(f"teacher of {self.key} must name at least one teacher, or be None")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that training shall have, in order; none where everything is learned at once."""
        return ()

    @property
    def teacher_mode(self) -> Literal["eval", "train", "same noise"]:
        """How the teacher runs while the student trains.

        As when it is used; as in training; or in training with the student, and drawing the same random numbers, so
        that drop path drops the same residuals of networks that are built alike. In evaluation it always runs as it is
        used.
        """
        return "eval"

    def stretched(self, share: float) -> "Method":
        """The same method for a training scaled by `share`: its schedule, and the epochs of its phases."""
        lengths = {name: getattr(self, name) for name in self.epoch_settings}
        changed = {name: max(1, round(share * epochs)) for name, epochs in lengths.items() if epochs}
        return replace(self, schedule=self.schedule.stretched(share), **changed)

    def shrunk(self, scale: float, classes: int | None) -> "Method":
        """The same method for trying it out on smaller images.

        Args:
            scale: of their sides, 0 < s ≤ 1.
            classes: how many there are; None as many as before.
        """
        del scale, classes
        return self

    def suited(self, activation: Literal["softmax", "sigmoid"] | None) -> "Method":
        """The same method for a task.

        Args:
            activation: what makes probabilities of the student's logits; None where they are none, or that is unknown.
        """
        del activation
        return self

    @property
    def makes_probabilities_by(self) -> Literal["softmax", "sigmoid"]:
        """What it makes of the logits that it reads, if it reads any."""
        return "softmax"

    def resolved(self, teacher: Description | None, student: Description) -> "Method":
        """The same method with every setting that depends on the two networks decided."""
        del teacher, student
        return self

    @abstractmethod
    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """What it wants to see.

        Raises:
            ValueError: if the networks have nothing of the kind; the message says what to name instead.
        """

    def check(self, teacher: Observed, student: Observed) -> None:
        """Refuse two networks whose values do not fit, on what the probe saw.

        Raises:
            InputError: if the shapes cannot be matched.
        """
        del teacher, student

    def parts(self, teacher: Observed, student: Observed) -> nn.Module | None:
        """Modules that it learns beside the student, sized by what the probe saw; None if there are none.

        Buffers of a module with the attribute `equal_in_all_processes = True` are kept equal by the method itself;
        others are copied from the first process in every step.

        Raises:
            ValueError: if the shapes cannot be matched.
        """
        del teacher, student
        return None

    def given_labels(self, parts: nn.Module | None, labels: Int64[Tensor, " n"] | None) -> None:
        """Complete the parts with what depends on the training set; once, when the distiller is built.

        Args:
            parts: what `parts` returned.
            labels: class indices of all training images, by their dataset index; None where they are unknown.

        Raises:
            InputError: if they are needed and unknown, or nothing can be learned from such a training set.
        """
        del parts, labels

    def task_tap(self, reads: Reads) -> Tap | None:
        """The tap of the student whose value the task's cross-entropy is of, in place of the logits.

        What is predicted stays the logits. None leaves it to them.

        Args:
            reads: what `reads` returned.
        """
        del reads
        return None

    def replace(self, teacher: Observed, reads: Reads, parts: nn.Module | None) -> Mapping[Tap, Replacement]:
        """What the student is given in place of its own, by tap of the student.

        Args:
            teacher: what was read of it.
            reads: what `reads` returned, so that values can be paired with their taps.
            parts: what `parts` returned.

        Returns:
            For a tap of a value, the value; for an attention layer, a function from the student's own call to the one
            that is computed instead.
        """
        del teacher, reads, parts
        return {}

    @abstractmethod
    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """Its loss terms, raw values in float32 or better, before the method's own weight."""


def spread(
    first: Sequence[Tap], second: Sequence[Tap], most: int | None = None
) -> tuple[tuple[Tap, ...], tuple[Tap, ...]]:
    """As many taps of both as the shorter list has, spread evenly over depth.

    At most `most` of them; they end with the last of each.
    """
    count = min(len(first), len(second), len(first) if most is None else most)

    def choose(taps: Sequence[Tap]) -> tuple[Tap, ...]:
        return tuple(taps[-(-i * len(taps) // count) - 1] for i in range(1, count + 1))

    return choose(first), choose(second)


def require_same_classes(what: str, teacher: int, student: int, otherwise: str) -> None:
    """Refuse a pair of networks with different numbers of classes.

    Args:
        what: needs them, for the message.
        teacher: size of its logits.
        student: size of its logits.
        otherwise: what to use instead.
    """
    if teacher != student:
        raise InputError(
            f"{what} the same classes: the teacher has {teacher}, the student {student}; use a teacher of this data "
            f"set, or {otherwise}"
        )
