"""What is refused of the outputs of student and teacher: those of which the loss says nothing."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from attention_transfer.capture.output_activation import squashed_by
from attention_transfer.capture.outputs import Images, first_image
from attention_transfer.distiller.network_pair import Both
from attention_transfer.distiller.observed_network import STUDENT, Role
from attention_transfer.distiller.task_loss import TaskLoss
from attention_transfer.errors import InputError

# Probabilities sum to 1 within this much, or within a few rounding errors of a coarser type.
_SUM = 1e-3
_ROUNDING_ERRORS = 4
# Of so many classes, logits are not all between 0 and 1 by chance.
_MANY_CLASSES = 32


Activation = Literal["softmax", "sigmoid"]


def readers_of_logits(both: Both) -> dict[Role, Activation | None]:
    """Whose outputs must be logits, and what is made of them; None of numbers of which nothing is made.

    Args:
        both: networks, methods, and the task.
    """
    of_task = None if both.task is None else both.task.loss.activation
    found: dict[Role, Activation | None] = {}
    for bound in both.bound:
        activation: Activation = bound.method.makes_probabilities_by
        readers = {*(both.teachers[name].role for name in bound.teachers)} if "teacher" in bound.reads_logits else set()
        for role in readers | ({STUDENT} if "student" in bound.reads_logits else set()):
            found[role] = activation
    if both.task is not None and isinstance(both.task.loss, TaskLoss):
        found.setdefault(STUDENT, of_task)
    return found


def check_logits(
    role: Role, logits: Tensor, model: nn.Module, run: Callable[[], Tensor], activation: Activation | None
) -> None:
    """Refuse outputs for noise that are no logits, or the same for every image.

    Args:
        role: for messages.
        logits: of noise, as they are taken to be.
        model: gave them.
        run: runs it once more, where only that tells.
        activation: what is made of them; None of numbers that are compared as they are.

    Raises:
        InputError: for one output, probabilities, and outputs that do not depend on the image.
    """
    if activation is not None and logits.ndim < 2:
        raise InputError(
            f"the logits of the {role} are of shape {tuple(logits.shape)}, where (batch, classes) is wanted: give "
            f"{role.partition(' ')[0]}_logits=lambda output: output[:, None] for one logit"
        )
    if activation == "softmax" and logits.shape[1] == 1:
        raise InputError(
            f"the {role} has one output for each image, and a softmax of one logit is always 1, so that nothing can be "
            "learned from it: give it two outputs, one for each class, and labels of 0 and 1; or learn one logit with "
            "task_loss='binary-cross-entropy'"
        )
    if not logits.is_floating_point():
        raise InputError(
            f"the {role} returns {logits.dtype}, where logits are wanted, which are floating point: take off what "
            "makes whole numbers of them"
        )
    if activation is None:
        return
    _refuse_probabilities(role, logits)
    values = logits.detach()
    if bool(((values >= 0) & (values <= 1)).all()):
        by = squashed_by(run)
        many = logits.shape[1] >= _MANY_CLASSES and bool((values > 0).all()) and not _constant(values)
        if by is not None or many:
            raise InputError(
                f"the {role} ends in {by or 'a sigmoid'}, so that its outputs are probabilities of each class by "
                f"itself, where logits are wanted: give the {role} without its end"
            )
    if _constant(values) and not _may_start_at_zero(model):
        raise InputError(_same_for_all(role, "noise"))


class FirstBatches:
    """Looks at the outputs for the first batch that is trained on, and for the first that is measured.

    Noise does not show everything: outputs may be made probabilities in evaluation alone, and only images of the data
    set show that they are not normalised as a teacher expects them. An accelerator is waited for, once each.

    Args:
        roles: whose outputs must be logits, and what is made of them.
        networks: by their role.
    """

    def __init__(self, roles: Mapping[Role, Activation | None], networks: Mapping[Role, nn.Module]) -> None:
        self._roles = frozenset(role for role, activation in roles.items() if activation is not None)
        self._networks = networks
        self._seen: set[tuple[str, bool]] = set()

    def __call__(self, images: Images, logits: Mapping[Role, Tensor | None], *, training: bool) -> None:
        """Refuse what nothing can be learned from.

        Args:
            images: of the batch.
            logits: of the networks that ran to their end; of no classes where one did not run.
            training: whether the student is in training.

        Raises:
            InputError: for outputs that are not finite, for probabilities, and for a teacher whose outputs are the same
                for all images. A term that is not finite though they are is left to the loop, which knows its step.
        """
        if first_image(images).is_meta:
            return
        # In a phase of its own a network may not run, and then its first batch is still to come.
        new: dict[Role, Tensor] = {
            role: values
            for role, values in logits.items()
            if values is not None and values.numel() and self._first(role, training)
        }
        if new:
            self._look_at_outputs(images, new)

    def _first(self, name: str, training: bool) -> bool:
        """Whether it was not asked for before."""
        first = (name, training) not in self._seen
        self._seen.add((name, training))
        return first

    def _look_at_outputs(self, images: Images, logits: Mapping[Role, Tensor]) -> None:
        _refuse_non_finite(images, logits)
        for role, values in logits.items():
            if role not in self._roles:
                continue
            _refuse_probabilities(role, values)
            same = role != STUDENT and _constant(values)
            same = same and not (isinstance(images, Tensor) and _constant(images))
            if same and not _may_start_at_zero(self._networks[role]):
                raise InputError(_same_for_all(role, "the images of this batch"))


def _refuse_probabilities(role: Role, logits: Tensor) -> None:
    rows = logits.detach().float()
    tolerance = max(_SUM, _ROUNDING_ERRORS * torch.finfo(logits.dtype).eps)
    if not bool((rows >= 0).all()):
        return
    for whole, what in ((1, "probabilities"), (100, "percentages")):
        if bool(((rows.sum(1) / whole - 1).abs() <= tolerance).all()):
            effect = "makes all classes nearly equal" if whole == 1 else "makes one class certain"
            share = "probabilities" if whole == 1 else "(percentages / 100)"
            raise InputError(
                f"the {role} returns {what}, where logits are wanted: a softmax is taken of them once more, which "
                f"{effect}. Give the {role} without its softmax, or in a module that returns "
                f"{share}.clamp_min(1e-8).log()"
            )


def _refuse_non_finite(images: Images, logits: Mapping[Role, Tensor]) -> None:
    """What is not finite first: images or outputs."""
    outputs = {role: each.detach() for role, each in logits.items() if each.is_floating_point()}
    if all(bool(each.isfinite().all()) for each in outputs.values()):
        return
    if not all(bool(each.isfinite().all()) for each in ([images] if isinstance(images, Tensor) else images)):
        raise InputError(
            "images hold values that are infinite or not a number: look for a division by a standard deviation of 0, "
            "and for files that were not read"
        )
    for role, each in outputs.items():
        if not bool(each.isfinite().all()):
            how = "in a type of a larger range than float16" if each.dtype == torch.float16 else "in float32"
            where = ", on images normalised as it expects them (teacher_input)" if role != STUDENT else ""
            raise InputError(
                f"the outputs of the {role} are infinite or not a number for the images of the first batch: run it "
                f"{how}{where}, and look at its weights"
            )


def _constant(rows: Tensor) -> bool:
    """Whether all of several images have the same values."""
    return len(rows) > 1 and bool((rows == rows[:1]).all())


def _may_start_at_zero(model: nn.Module) -> bool:
    """Whether a network was made to give the same for all images before it learns: by a layer of nothing but zeros."""
    return any(parameter.ndim > 1 and not bool(parameter.any()) for parameter in model.parameters())


def _same_for_all(role: Role, images: str) -> str:
    return (
        f"the outputs of the {role} are the same for all of {images}, so that they say nothing of an image: does its "
        "forward pass use its images, are they normalised as it expects them, and were its weights trained?"
    )
