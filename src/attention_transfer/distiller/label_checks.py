"""What is refused of labels: of a batch, and of the training set."""

import reprlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from attention_transfer.batch import UNLABELLED
from attention_transfer.distiller.image_checks import require_dense
from attention_transfer.errors import InputError

# How far the probabilities of an image may be from 1 together: arithmetic in half precision is not.
_SUM = 0.01


def class_labels(
    labels: Any, count: int, classes: int, wanting: Sequence[str]
) -> Int64[Tensor, " b"] | Float[Tensor, "b k"]:
    """Labels as class indices of 64 bits, or as class probabilities; nothing is asked of their values.

    Args:
        labels: as they were given.
        count: of the images.
        classes: of the student.
        wanting: methods that want class indices.

    Raises:
        InputError: for anything else; says how to make it of what was given.
    """
    require_dense("labels", labels, "of class indices or class probabilities", "torch.tensor(labels)")
    shape = tuple(labels.shape)
    if not shape or shape[0] != count:
        raise InputError(
            f"labels must be one for each of the {count} images, not {shape[0] if shape else 'a single number'}: give "
            f"them in shape ({count},) or ({count}, {classes})"
        )
    if shape == (count, 1):
        raise InputError(f"labels must have the shape ({count},), not {shape}: give labels[:, 0]")
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim == 1:
        if not whole:
            raise InputError(f"labels must be whole numbers, the class indices, not {labels.dtype}: give labels.long()")
        return labels.long()
    if wanting:
        raise InputError(
            f"{', '.join(wanting)}: labels must be class indices, not probabilities of shape {shape}: do not mix "
            "images or smooth labels"
        )
    if shape != (count, classes):
        raise InputError(
            f"labels must have a probability for each of the student's {classes} classes, ({count}, {classes}), not "
            f"the shape {shape}: give those, or class indices in shape ({count},)"
        )
    if not labels.is_floating_point():
        raise InputError(
            f"labels of shape {shape} must be floating point, the class probabilities, not {labels.dtype}: give "
            "labels.float(), or class indices with labels.argmax(1)"
        )
    return labels


def judge_indices(labels: Int64[Tensor, " b"], classes: int, refusing: Sequence[str]) -> None:
    """Refuse class indices that the student has not, and batches without any.

    Args:
        labels: on a CPU.
        classes: of the student.
        refusing: methods that cannot do without the label of an image.

    Raises:
        InputError: says which class index.
    """
    lowest, highest = (int(each) for each in torch.aminmax(labels))
    if lowest >= 0 and highest < classes:
        return
    missing = labels == UNLABELLED
    count, others = int(missing.sum()), labels[~missing].tolist()
    lowest, highest = min(others, default=0), max(others, default=0)
    if lowest < 0 or highest >= classes:
        how = f"the student has {classes} classes, as many as the data set must have"
        if lowest < 0:
            how = f"where no label is meant, give {UNLABELLED}"
        elif (lowest, highest) == (1, classes):
            how = "class indices count from 0, so give labels - 1"
        raise InputError(
            f"labels must be class indices from 0 to {classes - 1}, or {UNLABELLED} for an image without a label, not "
            f"{lowest if lowest < 0 else highest}: {how}"
        )
    if not others:
        raise InputError(
            f"labels are all {UNLABELLED}, which means that no image of the batch has a label, so that the loss of the "
            "labels is undefined: mix in images with labels, or set task_weight=0 with methods that read none"
        )
    if refusing:
        raise InputError(
            f"{', '.join(refusing)} reads the label of every image, and {count} of {len(labels)} have none "
            f"({UNLABELLED}): leave these images out, or the method"
        )


def in_range(labels: Int64[Tensor, " b"], classes: int) -> Int64[Tensor, " b"]:
    """Class indices of which those that the student has not count as images without a label."""
    return torch.where(labels.clamp(0, classes - 1) == labels, labels, UNLABELLED)


def measured(labels: Float[Tensor, "b k"]) -> Float[Tensor, "3"]:
    """What class probabilities are judged by: the smallest, and the smallest and the largest of their sums."""
    return torch.stack((labels.min().float(), *torch.aminmax(labels.sum(1, dtype=torch.float32))))


def judge_probabilities(numbers: Float[Tensor, "3"]) -> None:
    """Refuse rows that are no probabilities.

    Args:
        numbers: as `measured`, on a CPU.

    Raises:
        InputError: says which number.
    """
    smallest, *sums = numbers.tolist()
    # Also what is no number.
    if not smallest >= 0:
        raise InputError(
            f"labels of one row per image must be class probabilities, none negative, not {smallest:g}: give class "
            "indices, or rows that sum to 1"
        )
    off = next((each for each in sums if not abs(each - 1) <= _SUM), None)
    if off is not None:
        raise InputError(
            f"labels of one row per image must be class probabilities that sum to 1, and a row sums to {off:g}: of "
            "images with several classes, divide each row by its sum; rows of none cannot be learned from"
        )


def training_labels(labels: Any) -> Int64[Tensor, " n"]:
    """The labels of all training images as class indices of 64 bits.

    Args:
        labels: as they were given.

    Raises:
        InputError: if they are no class indices.
    """
    wanted = "train_labels must be a list of class indices from 0, one for each training image"
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{wanted}, not {reprlib.repr(labels)}") from error
    if (
        labels.ndim != 1
        or labels.is_floating_point()
        or labels.is_complex()
        or labels.dtype == torch.bool
        or not len(labels)
    ):
        raise InputError(f"{wanted}, not {labels.dtype} of shape {tuple(labels.shape)}")
    lowest = int(labels.min())
    if lowest < 0:
        raise InputError(f"{wanted}, not {lowest}: leave out images without a label, and count index without them")
    return labels.long()


def check_classes(labels: Int64[Tensor, " n"], classes: int) -> None:
    """Refuse a training set of classes that the student has not.

    Args:
        labels: of all training images.
        classes: of the student.

    Raises:
        InputError: says which.
    """
    lowest, highest = (int(each) for each in torch.aminmax(labels))
    if highest >= classes:
        how = "class indices count from 0, so give train_labels - 1" if (lowest, highest) == (1, classes) else ""
        raise InputError(
            f"train_labels go up to {highest}, and the student has the {classes} classes from 0 to {classes - 1}: "
            + (how or "give it as many as the data set has")
        )
