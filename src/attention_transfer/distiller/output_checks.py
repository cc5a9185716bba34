"""What is refused of the outputs of student and teacher: those of which the loss says nothing."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from attention_transfer.capture.output_activation import squashed_by
from attention_transfer.distiller.binding import Bound
from attention_transfer.distiller.observed_network import Role
from attention_transfer.errors import InputError

# Probabilities sum to 1 within this much, or within a few rounding errors of a coarser type.
_SUM = 1e-3
_ROUNDING_ERRORS = 4
# Of so many classes, logits are not all between 0 and 1 by chance.
_MANY_CLASSES = 32


def readers_of_logits(bound: Sequence[Bound], task_weight: float) -> frozenset[Role]:
    """Whose outputs must be logits: those of which a softmax is taken.

    Args:
        bound: all methods.
        task_weight: weight of the cross-entropy with the labels.
    """
    of_teacher = any(each.reads.teacher.logits or each.reads.teacher.gradients for each in bound)
    of_student = of_teacher or task_weight > 0 or any(each.reads.differentiates for each in bound)
    roles: dict[Role, bool] = {"teacher": of_teacher, "student": of_student}
    return frozenset(role for role, reads in roles.items() if reads)


def check_logits(role: Role, logits: Tensor, model: nn.Module, run: Callable[[], Tensor]) -> None:
    """Refuse outputs for noise that are no logits, or the same for every image.

    Args:
        role: for messages.
        logits: of noise, as they are taken to be.
        model: gave them.
        run: runs it once more, where only that tells.

    Raises:
        InputError: for one output, probabilities, and outputs that do not depend on the image.
    """
    if logits.shape[1] == 1:
        raise InputError(
            f"the {role} has one output for each image, and a softmax of one logit is always 1, so that nothing can be "
            "learned from it: give it two outputs, one for each class, and labels of 0 and 1"
        )
    if not logits.is_floating_point():
        raise InputError(
            f"the {role} returns {logits.dtype}, where logits are wanted, which are floating point: take off what "
            "makes whole numbers of them"
        )
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
        roles: whose outputs must be logits.
        networks: by their role.
    """

    def __init__(self, roles: frozenset[Role], networks: Mapping[Role, nn.Module]) -> None:
        self._roles, self._networks = roles, networks
        self._seen: set[tuple[str, bool]] = set()

    def __call__(self, images: Tensor, logits: Mapping[Role, Tensor | None], *, training: bool) -> None:
        """Refuse what nothing can be learned from.

        Args:
            images: of the batch.
            logits: of the networks that ran to their end; of no classes where one did not run.
            training: whether the student is in training.

        Raises:
            InputError: for outputs that are not finite, for probabilities, and for a teacher whose outputs are the same
                for all images. A term that is not finite though they are is left to the loop, which knows its step.
        """
        if images.is_meta:
            return
        # In a phase of its own a network may not run, and then its first batch is still to come.
        new: dict[Role, Tensor] = {
            role: values
            for role, values in logits.items()
            if values is not None and values.shape[1] and self._first(role, training)
        }
        if new:
            self._look_at_outputs(images, new)

    def _first(self, name: str, training: bool) -> bool:
        """Whether it was not asked for before."""
        first = (name, training) not in self._seen
        self._seen.add((name, training))
        return first

    def _look_at_outputs(self, images: Tensor, logits: Mapping[Role, Tensor]) -> None:
        _refuse_non_finite(images, logits)
        for role, values in logits.items():
            if role not in self._roles:
                continue
            _refuse_probabilities(role, values)
            same = role == "teacher" and _constant(values) and not _constant(images)
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


def _refuse_non_finite(images: Tensor, logits: Mapping[Role, Tensor]) -> None:
    """What is not finite first: images or outputs."""
    outputs = {role: each.detach() for role, each in logits.items()}
    if all(bool(each.isfinite().all()) for each in outputs.values()):
        return
    if not bool(images.isfinite().all()):
        raise InputError(
            "images hold values that are infinite or not a number: look for a division by a standard deviation of 0, "
            "and for files that were not read"
        )
    for role, each in outputs.items():
        if not bool(each.isfinite().all()):
            how = "in a type of a larger range than float16" if each.dtype == torch.float16 else "in float32"
            where = ", on images normalised as it expects them (teacher_input)" if role == "teacher" else ""
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
