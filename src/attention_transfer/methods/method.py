"""What a method is: a description of what it reads, learns, replaces and minimises. It never runs a model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal

from jaxtyping import Float, Int64
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import Attention, Replacement, Tap
from attention_transfer.errors import InputError
from attention_transfer.models.introspection.description import Description
from attention_transfer.phases import Phase
from attention_transfer.schedule import Schedule
from attention_transfer.settings import Settings


@dataclass(frozen=True)
class GradientLimit:
    """A rule that bounds a term's gradient by the task's, for each parameter by itself.

    The term's gradient is scaled down so that its norm is at most `ratio` times that of the task's gradient.

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
    """

    value: Float[Tensor, ""]
    weight: float | Float[Tensor, ""] = 1.0
    limit: GradientLimit | None = None
    scales: bool = True

    @property
    def weighted(self) -> Float[Tensor, ""]:
        """What enters the loss."""
        return self.weight * self.value


@dataclass(frozen=True)
class Reads:
    """What a method wants to see of both networks and of the batch.

    Args:
        teacher: places in the teacher, in the order in which the method receives them.
        student: places in the student, likewise.
        teacher_logits: whether the teacher must run to its end.
        labels: whether images need labels.
        index: whether images need their places in the data set.
        class_numbers: whether labels must be class indices; images cannot be mixed then.
        unlabelled: whether it can do with class indices of -100, of images without a label, though it reads labels;
            where it cannot, such batches are refused.
        train_labels: whether it needs the class numbers of all training images, see `Method.given_labels`.
        heads: whether it needs both networks' linear heads; it is then proved that each head acts on the mean over
            positions of that network's taps, and that its result is the logits.
        teacher_gradient: whether it needs the gradient of the teacher's cross-entropy with respect to the image.
        student_gradient: likewise of the student, differentiable once more.
        flipped_gradient: likewise of the student on mirrored images, mirrored back.
        teacher_attention: attention layers of the teacher, in the order in which the method receives them.
        student_attention: of the student, likewise.
        teacher_fingerprint: whether it needs to know the teacher by its weights, to tell it from others.
        teacher_norms: whether it needs the batch norms that make the values of the teacher's taps.
        fewest_images: of which its terms say anything; where processes share a batch, of all together.
        task_logits: one of the places in the student, whose value the task's cross-entropy is then of, in place of the
            logits; what is predicted stays the logits.
    """

    teacher: tuple[Tap, ...] = ()
    student: tuple[Tap, ...] = ()
    teacher_logits: bool = False
    labels: bool = False
    index: bool = False
    class_numbers: bool = False
    unlabelled: bool = False
    train_labels: bool = False
    heads: bool = False
    teacher_gradient: bool = False
    student_gradient: bool = False
    flipped_gradient: bool = False
    teacher_attention: tuple[Tap, ...] = ()
    student_attention: tuple[Tap, ...] = ()
    teacher_fingerprint: bool = False
    teacher_norms: bool = False
    fewest_images: int = 1
    task_logits: Tap | None = None

    @property
    def input_gradient(self) -> bool:
        """Whether any gradient with respect to the image is read; labels are needed for it."""
        return self.teacher_gradient or self.student_gradient or self.flipped_gradient


@dataclass(frozen=True)
class Head:
    """The linear layer that makes a network's logits.

    Args:
        weight: live parameter, so that what is learned through it reaches it.
        bias: likewise; None where there is none.
    """

    weight: Float[Tensor, "k c"]
    bias: Float[Tensor, " k"] | None


@dataclass(frozen=True)
class Norm:
    """What the last batch norm before a value, alone or in a sum, makes of each channel.

    Args:
        scale: standard deviation, which may be negative; live parameter.
        shift: mean; likewise.
    """

    scale: Float[Tensor, " c"]
    shift: Float[Tensor, " c"]


@dataclass(frozen=True)
class Fingerprint:
    """By what a network is known again.

    Args:
        weights: 32 bytes that go with its weights and buffers alone.
        reading: 32 bytes that go with the places where a method reads it, and how its images are normalised.
    """

    weights: bytes
    reading: bytes


@dataclass(frozen=True)
class Observed:
    """What one method sees of one network in one step.

    Args:
        logits: of the network; None where nothing asked for them, or in a phase in which it does not run.
        features: one value per tap of `Reads`, in its order; spatial ones always as (batch, channels, height, width).
        head: its linear head; None where nothing asked for it.
        gradient: ∂(cross-entropy of each image)/∂(image), of the shape of the image as the student receives it; None
            where nothing asked for it.
        flipped_gradient: the same of the mirrored image, mirrored back.
        attention: one per attention layer of `Reads`, in its order, as the network computed it itself.
        fingerprint: of the weights that it came with, and of how it is read; None where nothing asked for it.
        norms: one per tap, in their order; None where no batch norm makes the value. Empty where nothing asked for
            them.
        taps: where features and then attention were read.
    """

    logits: Float[Tensor, "b k"] | None
    features: tuple[Tensor, ...] = ()
    head: Head | None = None
    gradient: Float[Tensor, "b c h w"] | None = None
    flipped_gradient: Float[Tensor, "b c h w"] | None = None
    attention: tuple[Attention, ...] = ()
    fingerprint: Fingerprint | None = None
    norms: tuple[Norm | None, ...] = ()
    taps: tuple[Tap, ...] = ()


@dataclass(frozen=True)
class Method(Settings, ABC):
    """Base of every method.

    Args:
        weight: multiplies every term of the method; at least 0.
        schedule: how the weight changes from epoch to epoch.

    Raises:
        SettingError: for a setting that does not exist, or a value of another type than it has.
    """

    key: ClassVar[str]
    reads_attention: ClassVar[bool] = False
    # Whether a teacher that is smaller than its student is nothing unusual.
    smaller_teacher: ClassVar[bool] = False

    weight: float = 1.0
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"the weight of {self.key} must be a finite number of at least 0, not {self.weight}")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that training shall have, in order; none where everything is learned at once."""
        return ()

    @property
    def teacher_mode(self) -> Literal["eval", "train", "same noise"]:
        """How the teacher runs while the student trains: as when it is used; as in training; or in training with the
        student, and drawing the same random numbers, so that drop path drops the same residuals of networks that are
        built alike. In evaluation it always runs as it is used."""
        return "eval"

    def stretched(self, share: float) -> "Method":
        """The same method for a training that is so many times as long: its schedule, and the epochs of its phases."""
        lengths = {f.name: getattr(self, f.name) for f in fields(self) if f.name.endswith("_epochs")}
        changed = {name: max(1, round(share * epochs)) for name, epochs in lengths.items() if epochs}
        return replace(self, schedule=self.schedule.stretched(share), **changed)

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

    def parts(self, teacher: Observed, student: Observed) -> nn.Module | None:
        """Modules that it learns beside the student, sized by what the probe saw; None if there are none.

        Buffers of a module with the attribute `equal_in_all_processes = True` are kept equal by the method itself;
        others are copied from the first process in every step.

        Raises:
            ValueError: if the shapes cannot be matched.
        """
        del teacher, student
        return None

    def given_labels(self, parts: nn.Module | None, labels: Int64[Tensor, " n"]) -> None:
        """Complete the parts with what depends on the training set; once, where anybody knows its labels. They are
        known for certain only where `Reads.train_labels` asks for them.

        Args:
            parts: what `parts` returned.
            labels: class numbers of all training images, by their places.

        Raises:
            ValueError: if nothing can be learned from such a training set.
        """
        del parts, labels

    def replace(self, teacher: Observed, reads: Reads, parts: nn.Module | None) -> Mapping[Tap, Replacement]:
        """What the student is given in place of its own, by tap of the student.

        Args:
            teacher: what was read of it.
            reads: what `reads` returned, so that values can be given their places.
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
    """As many taps of both as the shorter list has, at most so many, spread evenly over depth and ending with the last
    of each."""
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
