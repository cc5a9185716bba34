"""What is refused of labels: of a batch, and of the training set."""

import reprlib
from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from attention_transfer.batch import UNLABELLED
from attention_transfer.distiller.image_checks import require_dense
from attention_transfer.errors import InputError

# How far the probabilities of an image may be from 1 together: arithmetic in half precision is not.
_SUM = 0.01
# What images of labels (VOC, COCO-stuff) have where there is none.
_BORDER = 255


def class_labels(
    labels: Any, count: int, outputs: Sequence[int], wanting: Sequence[str]
) -> Int64[Tensor, " b"] | Float[Tensor, "b k"] | Int64[Tensor, "b h w"] | Float[Tensor, "b k h w"]:
    """Labels as class indices of 64 bits, or as class probabilities; nothing is asked of their values.

    Args:
        labels: as they were given.
        count: of the images.
        outputs: shape of the student's logits of one image: classes, and of segmentation the sides of the maps.
        wanting: methods that want class indices.

    Raises:
        InputError: for anything else; says how to make it of what was given.
    """
    require_dense("labels", labels, "of class indices or class probabilities", "torch.tensor(labels)")
    shape, classes = tuple(labels.shape), outputs[0]
    if len(outputs) > 1:
        return _maps(labels, count, outputs)
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


def _maps(labels: Tensor, count: int, outputs: Sequence[int]) -> Tensor:
    """Labels of every position, as class indices of 64 bits or as class probabilities."""
    shape, classes, sides = tuple(labels.shape), outputs[0], len(outputs) - 1
    wanted = f"(batch, {', '.join(('time', 'height', 'width')[-sides:])})"
    if shape[:1] != (count,) or len(shape) not in (1 + sides, 2 + sides):
        how = ""
        if len(shape) == 2 + sides and shape[1] == 1:
            how = ": give labels[:, 0]"
        raise InputError(
            f"labels must be a class index for each position of the {count} images, {wanted}, as the student's outputs "
            f"are, not of shape {shape}{how}"
        )
    if len(shape) == 1 + sides:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise InputError(f"labels must be whole numbers, the class indices, not {labels.dtype}: give labels.long()")
        return labels.long()
    if shape[1] != classes:
        how = ": give labels[:, 0]" if shape[1] == 1 else ""
        raise InputError(
            f"labels of shape {shape} must have a probability for each of the student's {classes} classes, or be class "
            f"indices of shape {wanted}{how}"
        )
    if not labels.is_floating_point():
        raise InputError(
            f"labels of shape {shape} must be floating point, the class probabilities, not {labels.dtype}: give "
            "labels.float(), or class indices with labels.argmax(1)"
        )
    return labels


def like_outputs(labels: Any, count: int, outputs: Sequence[int], what: str) -> Tensor:
    """Labels of the shape that the student's outputs have.

    Args:
        labels: as they were given.
        count: of the images.
        outputs: shape of what the student gives for one image, by the example.
        what: they are, for the message.

    Raises:
        InputError: for another shape.
    """
    require_dense("labels", labels, f"of {what}", "torch.tensor(labels)")
    shape, wanted = tuple(labels.shape), (count, *outputs)
    # Sides of maps follow those of the images, and are known once the student has run.
    if (
        len(shape) == len(wanted)
        and shape[: 2 if len(outputs) > 1 else None] == wanted[: 2 if len(outputs) > 1 else None]
    ):
        return labels
    how = ""
    if wanted[1:] == (1,) and shape == (count,):
        how = ": give labels[:, None]"
    elif shape == (count,) and not labels.is_floating_point() and len(wanted) == 2:
        how = f": of class indices make torch.nn.functional.one_hot(labels, {wanted[1]})"
    raise InputError(f"labels must be {what}, in shape {wanted}, not {shape}{how}")


def range_of(labels: Tensor) -> Float[Tensor, "2"]:
    """The smallest and the largest of some numbers; NaN where one is no number."""
    return torch.stack(torch.aminmax(labels.float()))


def labelled_range(labels: Tensor) -> Int64[Tensor, "3"]:
    """Of class indices the smallest and the largest that are labels, and how many are."""
    known = labels != UNLABELLED
    lowest = torch.where(known, labels, torch.iinfo(torch.int64).max).min()
    highest = torch.where(known, labels, torch.iinfo(torch.int64).min).max()
    return torch.stack((lowest, highest, known.sum()))


def judge_positions(numbers: Int64[Tensor, "3"], classes: int) -> None:
    """Refuse maps of class indices that the student has not, and batches without any.

    Args:
        numbers: as `labelled_range`, on a CPU.
        classes: of the student.

    Raises:
        InputError: says which class index.
    """
    lowest, highest, count = (int(each) for each in numbers)
    if not count:
        raise InputError(f"labels are all {UNLABELLED}, so that no position of the batch has a label")
    if lowest < 0 or highest >= classes:
        how = f"the student has {classes} classes, as many as the data set must have"
        if lowest < 0 or highest == _BORDER:
            wrong = lowest if lowest < 0 else highest
            how = (
                f"where no label is meant, give {UNLABELLED}, as in labels.masked_fill(labels == {wrong}, {UNLABELLED})"
            )
        raise InputError(
            f"labels must be class indices from 0 to {classes - 1}, or {UNLABELLED} where a position has no label, not "
            f"{lowest if lowest < 0 else highest}: {how}"
        )


def judge_between(numbers: Float[Tensor, "2"]) -> None:
    """Refuse labels that are neither 0, nor 1, nor a probability.

    Args:
        numbers: the smallest and the largest, on a CPU.

    Raises:
        InputError: says which number.
    """
    lowest, highest = numbers.tolist()
    if not (lowest >= 0 and highest <= 1):
        wrong = highest if lowest >= 0 else lowest
        raise InputError(
            f"labels of binary-cross-entropy must be 0, 1 or a probability for each class, not {wrong:g}: give several "
            "hot labels, or task_loss='cross-entropy' for class indices"
        )


def judge_finite(numbers: Float[Tensor, "2"]) -> None:
    """Refuse numbers that are infinite or not a number.

    Args:
        numbers: the smallest and the largest, on a CPU.

    Raises:
        InputError: says which.
    """
    wrong = [number for number in numbers.tolist() if not isfinite(number)]
    if wrong:
        raise InputError(f"labels must be finite numbers, and one is {wrong[0]}: leave out images without a label")


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
