"""From an experiment to everything that a training loop needs, with every error before the first step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_transfer.data import DataSet, Loader, Split, load, loader
from attention_transfer.distiller import Distiller
from attention_transfer.experiment import Data, Experiment
from attention_transfer.models import Input, OpenedModel, describe, open_model
from attention_transfer.training.device import Place, choose_place
from attention_transfer.training.distributed import Process


@dataclass(frozen=True)
class Prepared:
    """What a training loop needs.

    Args:
        dataset: its splits.
        place: device, arithmetic, memory format.
        distiller: student, teacher and methods, on the place's device.
        student: as it was opened, for saving.
        train: batches to learn from.
        notes: what was assumed where nobody said, for the user to read.
    """

    dataset: DataSet
    place: Place
    distiller: Distiller
    student: OpenedModel
    train: Loader
    notes: tuple[str, ...]

    def evaluation(self, split: Split, batch_size: int) -> Loader:
        """Batches of a split in order, without augmentation."""
        return loader(split, self.dataset, batch_size=batch_size, train=False, device=self.place.device)


def load_data(data: Data, seed: int) -> DataSet:
    """The data set that an experiment names."""
    return load(
        data.name,
        root=data.root,
        image_size=data.image_size,
        validation_fraction=data.validation_fraction,
        train_limit=data.train_limit,
        seed=seed,
    )


def prepare(experiment: Experiment, process: Process | None = None) -> Prepared:
    """Load the data, build both networks, and prove that the methods fit them.

    Raises:
        ValueError: for anything that does not fit, before training.
    """
    process = process or Process()
    dataset = load_data(experiment.data, experiment.seed)
    # First of all that is random: the same student for the same seed, whatever methods are compared.
    torch.manual_seed(experiment.seed)
    student = open_model(experiment.student, dataset.num_classes, image_size=dataset.image_size)
    if student.num_classes != dataset.num_classes:
        raise ValueError(
            f"the student has {student.num_classes} classes, {dataset.name} has {dataset.num_classes}; start from weights "
            "of these classes, or from none"
        )
    place = choose_place(experiment.training, describe(student.module).convolutional, process.local_rank)
    teacher, notes = _open_teacher(experiment, dataset)
    given = Input(dataset.mean, dataset.std)
    distiller = Distiller(
        student.module,
        teacher.module if teacher is not None else None,
        experiment.methods,
        task_weight=experiment.task_weight,
        example=torch.empty(2, 3, dataset.image_size, dataset.image_size),
        student_input=given,
        teacher_input=teacher.input or given if teacher is not None else None,
    )
    distiller.to(place.device).to(memory_format=place.memory_format)  # pyright: ignore[reportCallIssue]
    train = loader(
        dataset.train,
        dataset,
        batch_size=experiment.training.batch_size,
        train=True,
        augment=experiment.data.augment,
        seed=experiment.seed,
        device=place.device,
        num_workers=experiment.data.num_workers,
        channels_last=place.memory_format == torch.channels_last,
        rank=process.rank,
        world_size=process.world_size,
    )
    return Prepared(dataset, place, distiller, student, train, notes)


def teacher_images(prepared: Prepared) -> Callable[[Tensor], Tensor]:
    """How the student's images become the teacher's."""
    return prepared.distiller.teacher_images


def _open_teacher(experiment: Experiment, dataset: DataSet) -> tuple[OpenedModel | None, tuple[str, ...]]:
    if experiment.teacher is None:
        return None, ()
    teacher = open_model(experiment.teacher, dataset.num_classes, image_size=dataset.image_size)
    if not teacher.trained and not experiment.untrained_teacher:
        raise ValueError(
            f"the teacher {experiment.teacher!r} comes without weights and would teach noise: write NAME@FILE, "
            "NAME@pretrained (timm, torchvision, hf) or a run folder"
        )
    if teacher.input is None:
        return teacher, (f"the teacher's normalisation is unknown: taken to be that of {dataset.name}",)
    return teacher, ()
