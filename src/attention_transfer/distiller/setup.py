"""What a distiller is built from, once it was checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from attention_transfer.capture import Images, Where
from attention_transfer.distiller.task_loss import OwnLoss, TaskLoss
from attention_transfer.methods import Method
from attention_transfer.models import Renormalise

ONLY = "teacher"
"""Name of a teacher that was given without one."""


@dataclass(frozen=True)
class Task:
    """What the labels ask of the student.

    Args:
        loss: of its output and the labels.
        weight: of its term, above 0.
    """

    loss: TaskLoss | OwnLoss
    weight: float


@dataclass(frozen=True)
class Teaching:
    """One teacher, and what is said of it.

    Args:
        model: the network.
        images: makes its images of the student's.
        logits: where they are in its output; None where they usually are.
        weight: multiplies the terms of all methods that learn from it.
        device: where it stays, wherever the student goes; None takes it along.
    """

    model: nn.Module
    images: Renormalise
    logits: Where | None = None
    weight: float = 1.0
    device: torch.device | None = None


@dataclass(frozen=True)
class Setup:
    """What a distiller is built from.

    Args:
        student: the network that learns.
        teachers: by name.
        methods: what is transferred.
        task: None where nothing is learned from the labels by the distiller's own loss.
        example: images.
        labels: of the example; None where they were not given.
        student_logits: where they are in its output; None where they usually are.
        takes_labels: whether the student's forward pass takes the labels beside the images.
        train_labels: class indices of all training images, by dataset index.
        dropping: with which probability a teacher is left out for an image, where it is not the one of the largest
            loss.
    """

    student: nn.Module
    teachers: Mapping[str, Teaching]
    methods: tuple[Method, ...]
    task: Task | None
    example: Images
    labels: Any = None
    student_logits: Where | None = None
    takes_labels: bool = False
    train_labels: Int64[Tensor, " n"] | None = None
    dropping: float = 0.0


def role_of(teacher: str) -> str:
    """How messages name a teacher: by its name, if it was given one.

    >>> role_of("dino"), role_of(ONLY)
    ("teacher 'dino'", 'teacher')
    """
    return ONLY if teacher == ONLY else f"teacher {teacher!r}"
