"""What is refused of a batch, and of the labels of a training set."""

from collections.abc import Mapping

import torch
from torch import Tensor

from attention_transfer.errors import InputError
from attention_transfer.methods import Reads


def check_batch(
    methods: Mapping[str, Reads], images: Tensor, labels: Tensor | None, index: Tensor | None, task: bool
) -> None:
    """Refuse a batch that lacks what is read of it.

    Args:
        methods: what each of them reads, by its name.
        images: of the batch.
        labels: of the batch.
        index: places of its images.
        task: whether the labels are learned too.

    Raises:
        ValueError: if labels or places are missing, places are no numbers of the images, or labels are mixed where
            class numbers are wanted.
    """
    reads = methods.values()
    if labels is None and (task or any(each.labels or each.class_numbers or each.input_gradient for each in reads)):
        raise InputError("labels are needed: task_weight is not 0, or a method reads them")
    wanting = [name for name, each in methods.items() if each.index]
    if wanting:
        if index is None:
            raise InputError(
                f"index is needed by {', '.join(wanting)}: give the images' places in their data set as third argument"
            )
        if index.dtype != torch.int64 or index.shape != images.shape[:1]:
            raise InputError(
                f"index must have one whole number (int64) for each of the {len(images)} images, not {index.dtype} of "
                f"shape {tuple(index.shape)}"
            )
    if labels is not None and labels.ndim != 1 and any(each.class_numbers for each in reads):
        raise InputError(
            "a method wants class numbers as labels, not probabilities: do not mix images or smooth labels"
        )


def checked_labels(labels: Tensor | None, key: str) -> Tensor:
    """The labels of all training images as class numbers.

    Args:
        labels: as they were given.
        key: of the method that needs them.

    Raises:
        ValueError: if they are missing, or no class numbers.
    """
    if labels is None:
        raise InputError(
            f"{key} needs the labels of all training images: give Distiller(..., train_labels=...), class numbers in "
            "the order that index counts"
        )
    labels = torch.as_tensor(labels)
    if (
        labels.ndim != 1
        or labels.is_floating_point()
        or labels.dtype == torch.bool
        or not len(labels)
        or int(labels.min()) < 0
    ):
        raise InputError(
            f"train_labels must be a list of class numbers, one for each training image, not {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    return labels.long()
