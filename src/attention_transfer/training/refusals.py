"""Checks before training: methods, networks, data and settings that do not fit together."""

from collections.abc import Callable, Sequence

import torch

from attention_transfer.capture.opaque_modules import COMPILES_FROM, compiles
from attention_transfer.data import DataSet
from attention_transfer.distiller import Distiller
from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment
from attention_transfer.memory_budget import ChecksMemory
from attention_transfer.methods.method import Reads
from attention_transfer.models import OpenedModel
from attention_transfer.models.class_names import pair_classes
from attention_transfer.models.introspection.class_maps import ClassMapHead
from attention_transfer.training.device import Arithmetic
from attention_transfer.training.distributed import Process


def refuse_missing_logits(experiment: Experiment, student: OpenedModel, teacher: OpenedModel) -> None:
    """Refuse a teacher without its last layer: what it gives looks like logits, and may even be as many.

    Raises:
        InputError: naming the methods that read its logits.
    """
    if teacher.num_classes:
        return
    descriptions = teacher.description, student.description
    # What attention there is has not been looked for yet.
    others = [method for method in experiment.methods if not method.reads_attention]
    readers = [method.key for method in others if method.reads(*descriptions).teacher.logits]
    if readers:
        raise InputError(
            f"the teacher {experiment.teacher!r} has no last layer, and {', '.join(readers)} learns from its logits: "
            "choose methods that read its attention or features, or a teacher that was trained with labels"
        )


def refuse_other_classes(
    experiment: Experiment, distiller: Distiller, teacher: OpenedModel | None, dataset: DataSet
) -> None:
    """Refuse a teacher of other classes: as many of them are not the same ones.

    Raises:
        InputError: naming the methods that read what it says of classes, and some classes.
    """
    if teacher is None or experiment.match_classes is not None:
        return
    difference = other_classes(teacher, dataset)
    readers = _reading(distiller, _reads_classes)
    if difference and readers:
        raise InputError(
            f"{', '.join(readers)} learns from the teacher's classes, and those of {experiment.teacher!r} are others "
            f"than those of {dataset.name}: {difference}. Take a teacher of these classes or methods without logits; "
            "if only the spelling differs, --match-classes index pairs them by their indices"
        )


def refuse_to_compile(experiment: Experiment, distiller: Distiller) -> None:
    """Refuse methods that a compiled network cannot serve.

    Raises:
        InputError: naming the methods.
    """
    if not experiment.training.compile:
        return
    _refuse_methods(
        _reading(distiller, lambda reads: reads.differentiates),
        "needs the gradient of a gradient, and torch.compile cannot differentiate twice: leave out --compile, or the "
        "method",
    )
    _refuse_methods(
        [method.key for method in distiller.methods if method.teacher_mode == "same noise"],
        "has same_drop_path, and compiled networks need not draw the same numbers: leave out --compile, or "
        "same_drop_path",
    )
    if not compiles():
        raise InputError(
            f"torch {torch.__version__} cannot compile a distiller: leave out --compile, or take torch {COMPILES_FROM} "
            "or newer"
        )


def refuse_beyond_memory(experiment: Experiment, distiller: Distiller, place: Arithmetic) -> None:
    """Refuse what methods remember, where the device cannot hold it.

    Raises:
        InputError: naming the methods.
    """
    for part in distiller.parts.values():
        if isinstance(part, ChecksMemory):
            part.check_memory(experiment.training.batch_size, place.device)


def refuse_to_mix(experiment: Experiment, distiller: Distiller) -> None:
    """Refuse mixed images and smoothed labels for methods that want one image or one class.

    Raises:
        InputError: naming the methods.
    """
    mixing, one_class = experiment.data.mixing, _reading(distiller, lambda reads: reads.batch.class_indices)
    if mixing.mixes:
        two = "and a mixed image has two: leave out --mixup and --cutmix, or the method"
        by_index = _reading(distiller, lambda reads: reads.batch.index)
        _refuse_methods(by_index, f"goes by the dataset index of each image, {two}")
        _refuse_methods(one_class, f"wants one class for each image, {two}")
    if mixing.softens:
        _refuse_methods(
            one_class,
            "wants one class for each image, and smoothed labels are shares of all classes: leave out "
            "--label-smoothing, or the method",
        )


def refuse_small_batches(experiment: Experiment, distiller: Distiller, process: Process) -> None:
    """Refuse batches of too few images for methods that compare them.

    Raises:
        InputError: naming the methods.
    """
    count = experiment.training.batch_size * process.world_size
    for method, reads in zip(distiller.methods, distiller.reads, strict=True):
        if count < reads.batch.minimum:
            raise InputError(
                f"{method.key} compares the images of a batch with each other, and of {count} there is nothing to "
                f"compare: give a batch size of at least {-(-reads.batch.minimum // process.world_size)}"
            )


def _reads_classes(reads: Reads) -> bool:
    """Whether a method reads what the teacher says of classes: its logits, its head, or the gradient of its loss."""
    asked = reads.teacher
    return asked.logits or bool(asked.gradients) or any(isinstance(each, ClassMapHead) for each in asked.provide)


def _reading(distiller: Distiller, what: Callable[[Reads], object]) -> list[str]:
    """Keys of the methods that read something."""
    return [method.key for method, reads in zip(distiller.methods, distiller.reads, strict=True) if what(reads)]


def _refuse_methods(keys: Sequence[str], why: str) -> None:
    if keys:
        raise InputError(f"{', '.join(keys)} {why}")


def other_classes(network: OpenedModel, dataset: DataSet) -> str:
    """In words, how the classes of a network that has as many are others than those of data.

    Empty where they are not, or where names of one of them are unknown.
    """
    return pair_classes(network.classes, dataset.classes, named=dataset.named).difference
