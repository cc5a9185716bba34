"""Losses of the task: what the student's output is to become by the labels.

>>> import torch
>>> loss = task_loss("binary-cross-entropy")
>>> loss.key, round(float(loss.value(torch.zeros(2, 3), torch.ones(2, 3))), 4)
('bce', 0.6931)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from attention_transfer.batch import UNLABELLED
from attention_transfer.distiller.label_checks import (
    class_labels,
    in_range,
    judge_between,
    judge_finite,
    judge_indices,
    judge_positions,
    judge_probabilities,
    labelled_range,
    like_outputs,
    measured,
    range_of,
)
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.settings import SettingError

Look = Callable[[Tensor, Callable[[Tensor], None]], bool]
"""Has values of a device judged, now or when they are there; says whether it was now."""


@dataclass(frozen=True)
class TaskLoss(ABC):
    """What the labels ask of the student's output.

    Attributes:
        name: as `task_loss` of a distiller has it.
        key: name of its term.
        activation: what makes probabilities of the outputs that it reads; None where they are none.
    """

    name: ClassVar[str]
    key: ClassVar[str]
    activation: ClassVar[Literal["softmax", "sigmoid"] | None] = None

    @abstractmethod
    def shaped(self, labels: Any, count: int, outputs: Sequence[int], wanting: Sequence[str]) -> Tensor:
        """Labels as they are learned; nothing is asked of their values.

        Args:
            labels: as they were given.
            count: of the images.
            outputs: shape of what the student gives for one image, by the example.
            wanting: methods that want class indices.

        Raises:
            InputError: for labels of another kind or shape; says how to make them of what was given.
        """

    @abstractmethod
    def judged(self, labels: Tensor, outputs: Sequence[int], refusing: Sequence[str], look: Look) -> Tensor:
        """Labels whose values were looked at.

        Args:
            labels: of `shaped`.
            outputs: same as for `shaped`.
            refusing: methods that cannot do without the label of an image.
            look: see `Look`.

        Raises:
            InputError: for values that cannot be learned.
        """

    @abstractmethod
    def example(self, logits: Tensor) -> Tensor:
        """Labels that fit some outputs."""

    @abstractmethod
    def value(self, output: Tensor, labels: Tensor) -> Tensor:
        """The loss, in float32 or better: a scalar.

        Args:
            output: of the student.
            labels: as they were judged.

        Raises:
            InputError: for labels that do not lie as the output does.
        """


class CrossEntropy(TaskLoss):
    """Of class indices or class probabilities, of every image or at every position."""

    name: ClassVar[str] = "cross-entropy"
    key: ClassVar[str] = "ce"
    activation: ClassVar[Literal["softmax", "sigmoid"] | None] = "softmax"

    def shaped(self, labels: Any, count: int, outputs: Sequence[int], wanting: Sequence[str]) -> Tensor:
        """Class indices of 64 bits, or class probabilities."""
        return class_labels(labels, count, outputs, wanting)

    def judged(self, labels: Tensor, outputs: Sequence[int], refusing: Sequence[str], look: Look) -> Tensor:
        """Indices of classes that there are; probabilities that sum to 1."""
        if labels.is_floating_point():
            look(measured(labels.detach()), judge_probabilities)
            return labels
        judge, values = partial(judge_indices, classes=outputs[0], refusing=refusing), labels
        if labels.ndim > 1:
            # Maps of labels are too many values to be sent in every step.
            judge, values = partial(judge_positions, classes=outputs[0]), labelled_range(labels)
        # Out of its range an index would end the process of an accelerator, without a word that says why.
        return labels if look(values, judge) else in_range(labels, outputs[0])

    def example(self, logits: Tensor) -> Tensor:
        """Classes in turn."""
        images, classes, *sides = logits.shape
        return (torch.arange(images, device=logits.device) % classes).reshape(-1, *[1] * len(sides)).expand(-1, *sides)

    def value(self, output: Tensor, labels: Tensor) -> Tensor:
        """Averaged over images, or over positions; those without a label are left out."""
        wanted = output.shape if labels.is_floating_point() else (output.shape[0], *output.shape[2:])
        _require_alike(labels, tuple(wanted))
        value = functional.cross_entropy(at_least_float32(output), labels)
        if labels.is_floating_point():
            return value
        # An accelerator says one step late that there was no label at all: until then, no weight may become NaN by it.
        return torch.where((labels != UNLABELLED).any(), value, 0.0)


class BinaryCrossEntropy(TaskLoss):
    """Of every class by itself: several hot labels, or one logit for two classes."""

    name: ClassVar[str] = "binary-cross-entropy"
    key: ClassVar[str] = "bce"
    activation: ClassVar[Literal["softmax", "sigmoid"] | None] = "sigmoid"

    def shaped(self, labels: Any, count: int, outputs: Sequence[int], wanting: Sequence[str]) -> Tensor:
        """Zeros and ones, or probabilities, of the outputs' shape."""
        labels = like_outputs(labels, count, outputs, "a 0 or 1, or a probability, for each class")
        return labels if labels.is_floating_point() else labels.float()

    def judged(self, labels: Tensor, outputs: Sequence[int], refusing: Sequence[str], look: Look) -> Tensor:
        """Nothing below 0 or above 1."""
        look(range_of(labels.detach()), judge_between)
        return labels

    def example(self, logits: Tensor) -> Tensor:
        """Every other class."""
        return (torch.arange(logits.numel(), device=logits.device) % 2).reshape(logits.shape).to(logits.dtype)

    def value(self, output: Tensor, labels: Tensor) -> Tensor:
        """Averaged over images and classes."""
        _require_alike(labels, tuple(output.shape))
        wide = at_least_float32(output)
        return functional.binary_cross_entropy_with_logits(wide, labels.to(wide.dtype))


class _Regression(TaskLoss):
    """Of numbers."""

    def shaped(self, labels: Any, count: int, outputs: Sequence[int], wanting: Sequence[str]) -> Tensor:
        """Numbers of the outputs' shape."""
        labels = like_outputs(labels, count, outputs, "a number for each output")
        if not labels.is_floating_point():
            raise InputError(f"labels must be floating point for {self.name}, not {labels.dtype}: give labels.float()")
        return labels

    def judged(self, labels: Tensor, outputs: Sequence[int], refusing: Sequence[str], look: Look) -> Tensor:
        """Nothing infinite, nothing that is no number."""
        look(range_of(labels.detach()), judge_finite)
        return labels

    def example(self, logits: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(logits)

    def value(self, output: Tensor, labels: Tensor) -> Tensor:
        """Averaged over images and outputs."""
        _require_alike(labels, tuple(output.shape))
        wide = at_least_float32(output)
        return self._loss(wide, labels.to(wide.dtype))

    @abstractmethod
    def _loss(self, output: Tensor, labels: Tensor) -> Tensor: ...


class SquaredError(_Regression):
    """The mean of squared differences."""

    name: ClassVar[str] = "mse"
    key: ClassVar[str] = "mse"

    def _loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return functional.mse_loss(output, labels)


class SmoothAbsoluteError(_Regression):
    """The mean of absolute differences, squared below 1 (Huber)."""

    name: ClassVar[str] = "smooth-l1"
    key: ClassVar[str] = "smooth-l1"

    def _loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return functional.smooth_l1_loss(output, labels)


@dataclass(frozen=True)
class OwnLoss:
    """A function of the student's output, as it came, and of the labels, whatever they are.

    Args:
        function: returns a scalar.
    """

    function: Callable[[Any, Any], object]
    name: ClassVar[str] = "a function"
    key: ClassVar[str] = "task"
    activation: ClassVar[None] = None

    def value(self, output: Any, labels: Any) -> Tensor:
        """What the function gives.

        Raises:
            InputError: for anything but a scalar tensor of floating point.
        """
        value = self.function(output, labels)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
            raise InputError(
                f"task_loss must return a scalar tensor, the loss of the batch, not a value {what}: average over the "
                "images, as in value.mean(), and sum the losses of a dict"
            )
        return value.reshape(())


TASK_LOSSES: dict[str, TaskLoss] = {
    loss.name: loss for loss in (CrossEntropy(), BinaryCrossEntropy(), SquaredError(), SmoothAbsoluteError())
}
"""Losses of the task by name."""


def task_loss(given: Any) -> TaskLoss | OwnLoss | None:
    """A loss by its name, or of a function.

    Args:
        given: a name, a function `(student_output, labels) -> scalar`, or None where the labels are nobody's here.

    Raises:
        SettingError: for anything else.
    """
    if given is None:
        return None
    if isinstance(given, str) and given in TASK_LOSSES:
        return TASK_LOSSES[given]
    if callable(given) and not isinstance(given, type):
        return OwnLoss(given)
    raise SettingError(
        f"task_loss must be {', '.join(map(repr, TASK_LOSSES))}, a function (student_output, labels) -> scalar, or "
        f"None, not {given!r:.200}"
    )


def _require_alike(labels: Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(labels.shape) != wanted:
        raise InputError(
            f"labels must lie as the student's outputs do, in shape {wanted}, not {tuple(labels.shape)}: bring the "
            "outputs to their size (student_logits=, a function of the output), or the labels to that of the outputs"
        )
