"""Preparation of a training: networks, data and distiller of an experiment, with every error before the first step."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from attention_transfer.data import DataSet, Loader, Split, load, loader
from attention_transfer.data.selection import evenly as evenly
from attention_transfer.data.sources.cifar import refuse_to_fetch
from attention_transfer.distiller import Distiller
from attention_transfer.distiller.notes import unwarned
from attention_transfer.errors import InputError
from attention_transfer.experiment import Data, Experiment
from attention_transfer.files.env_paths import expand
from attention_transfer.models import Input, OpenedModel, WeightsError, check_channels, check_spec, open_model
from attention_transfer.models.class_order import with_classes_of
from attention_transfer.models.untrained import settle_norms
from attention_transfer.pretraining import MaskedAutoencoder
from attention_transfer.training.deployment import notes_on_its_own, together
from attention_transfer.training.device import Arithmetic, choose_arithmetic
from attention_transfer.training.distributed import Process
from attention_transfer.training.optim import make_optimizer
from attention_transfer.training.refusals import (
    other_classes,
    refuse_beyond_memory,
    refuse_missing_logits,
    refuse_other_classes,
    refuse_small_batches,
    refuse_to_compile,
    refuse_to_mix,
)


@dataclass(frozen=True)
class Prepared:
    """What a training loop needs.

    Args:
        dataset: data set with its splits.
        place: device, precision and memory format.
        distiller: student, teacher and methods, on the device of `place`; or what pre-trains the student.
        student: student as it was opened, for saving.
        teacher: teacher as it was opened, if there is one.
        train: training batches.
        num_workers: processes that decode photographs.
        notes: what was assumed because it could not be determined, for the user to read.
        teacher_input: how the teacher's images are normalised, if there is one.
        teacher_cached: whether the outputs of the teacher may come from a cache.
    """

    dataset: DataSet
    place: Arithmetic
    distiller: Distiller | MaskedAutoencoder
    student: OpenedModel
    teacher: OpenedModel | None
    train: Loader
    num_workers: int
    notes: tuple[str, ...]
    teacher_input: Input | None = None
    teacher_cached: bool = False

    def arithmetic(self) -> AbstractContextManager[Any]:
        """The context in which a step runs, forwards and backwards.

        Convolutional networks have no attention that would pay for intercepting each of their calls.
        """
        networks = [each for each in (self.student, self.teacher) if each is not None]
        convolutional = all(each.description.convolutional for each in networks)
        return nullcontext() if convolutional else self.place.attention_kernel()

    def evaluation(self, split: Split, batch_size: int) -> Loader:
        """Batches of a split in order, without augmentation."""
        return loader(
            split,
            self.dataset,
            batch_size=batch_size,
            train=False,
            device=self.place.device,
            num_workers=self.num_workers,
            channels_last=self.place.memory_format == torch.channels_last,
        )


def load_data(data: Data, seed: int, *, labelled: bool = True, download: bool = True) -> DataSet:
    """The data set that an experiment names.

    Args:
        data: as configured.
        seed: of the choice of validation images.
        labelled: whether labels are needed.
        download: whether what is missing may be fetched.

    Raises:
        ValueError: if it cannot be had, has no labels where they are needed, or the limits leave a split without
            images.
    """
    if not download:
        refuse_to_fetch(data.name, None if data.root is None else Path(expand(str(data.root))))
    dataset = load(
        expand(data.name),
        root=None if data.root is None else Path(expand(str(data.root))),
        image_size=data.image_size,
        validation_fraction=data.validation_fraction,
        train_classes=data.train_classes,
        train_fraction=data.train_fraction,
        train_limit=data.train_limit,
        train_sample=data.train_sample,
        test_limit=data.test_limit,
        labelled=labelled,
        split_seed=data.split_seed,
        decoding=data.decoding,
        background=data.background,
        seed=seed,
    )
    if labelled and not dataset.labelled:
        raise InputError(
            f"{dataset.name} holds images without labels (no train/ and val/ with a folder per class), from which only "
            "`attention-transfer pretrain` can learn"
        )
    if labelled and dataset.num_classes == 1:
        raise InputError(
            f"{dataset.name} holds a single class, {dataset.classes[0]}, so that there is nothing to classify: give "
            "images of two or more classes"
        )
    unseen = dataset.unseen
    if unseen is not None and not len(unseen):
        raise InputError(
            f"none of the {len(dataset.test)} test images of {dataset.name} is of a class beyond the first "
            f"{data.train_classes}: raise test_limit, or lower train_classes"
        )
    return dataset


def open_at_its_size(spec: str, dataset: DataSet, *, by_name: bool = True, allow_download: bool = False) -> OpenedModel:
    """A network that is not trained here.

    Built for the images it was made for, to which these are resized; with its teacher, where it was trained to compute
    with one.

    Args:
        spec: as on the command line.
        dataset: gives classes and size where the network has none of its own.
        by_name: bring its classes into the order of the data's where both have the same names.
        allow_download: fetch what run folders name.
    """
    place = expand(spec)
    try:
        opened = open_model(place, dataset.num_classes, allow_download=allow_download)
    except WeightsError:
        # Weights of a transformer trained at the size of these images, which its name does not say.
        opened = open_model(place, dataset.num_classes, image_size=dataset.image_size, allow_download=allow_download)
    size = expected_size(opened, dataset)
    check_channels(opened.module, spec, size)
    if by_name:
        opened = with_classes_of(opened, dataset.classes, size, named=dataset.named)
    return together(opened, Path(place), dataset.image_size, allow_download=allow_download)


def expected_size(network: OpenedModel, dataset: DataSet) -> tuple[int, int]:
    """Height and width of the images that a network is given: its own where it takes no others, else the data set's."""
    known = network.description.input.size if network.description.input else None
    return known or (dataset.image_size, dataset.image_size)


def expected_input(
    network: OpenedModel,
    given: Input,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> Input:
    """How a network expects its images: as the user says, as it was trained, or else like the images at hand.

    Args:
        network: opened.
        given: how the images at hand are normalised.
        mean: said by the user.
        std: said by the user.

    Raises:
        ValueError: what the user says is of no images whose pixels are 0…1.
    """
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and not all((each > 0 if name == "std" else each >= 0) and each <= 1 for each in values):
            way = ": divide by 255" if all(1 < each <= 255 for each in values) else ""
            wanted = "above 0 and at most 1" if name == "std" else "0…1"
            raise InputError(
                f"the {name} of a network's images counts pixels from 0 to 1, so that its three numbers are {wanted}, "
                f"not {' '.join(f'{each:g}' for each in values)}{way}"
            )
    known = network.input or given
    size = network.description.input.size if network.description.input else None
    return Input(mean or known.mean, std or known.std, known.size or size)


def check_networks(experiment: Experiment) -> None:
    """Refuse networks that nothing can be found under.

    Raises:
        ValueError: for a name, file, folder or environment variable that does not exist.
    """
    for spec in (experiment.student, experiment.teacher):
        if spec is not None:
            check_spec(expand(spec))


def prepare(experiment: Experiment, process: Process | None = None) -> Prepared:
    """Load the data, build both networks, and prove that the methods fit them.

    Raises:
        ValueError: for anything that does not fit, before training.
    """
    process = process or Process()
    # What is quick to see comes before what takes long to load.
    check_networks(experiment)
    dataset = load_data(experiment.data, experiment.seed)
    # First of all that is random: the same student for the same seed, whatever methods are compared.
    torch.manual_seed(experiment.seed)
    student, notes = _open_student(experiment, dataset)
    # Built once for its errors; the loop makes one for each phase.
    make_optimizer({"student": student.module}, experiment.optimisation)
    place = choose_arithmetic(experiment.training, student.description.convolutional, process.local_rank)
    teacher = _open_teacher(experiment, dataset)
    if teacher is not None and teacher.description.convolutional and experiment.training.channels_last is None:
        # Its convolutions gain as much from it, and a transformer loses nothing by it.
        place = replace(place, memory_format=torch.channels_last)
    if teacher is not None and teacher.input is None and experiment.teacher_mean is None:
        notes.append(
            f"the teacher's normalisation is unknown: taken to be that of {dataset.name}; if its weights were trained "
            "with another, give teacher_mean and teacher_std"
        )
    if teacher is not None:
        notes += teacher.notes
        refuse_missing_logits(experiment, student, teacher)
    given = Input(dataset.mean, dataset.std)
    teacher_input = (
        None if teacher is None else expected_input(teacher, given, experiment.teacher_mean, experiment.teacher_std)
    )
    distiller = _distiller(experiment, dataset, student, teacher, teacher_input)
    notes += (*distiller.notes, *_decided(experiment, distiller), *_never_comes_down(experiment))
    refuse_other_classes(experiment, distiller, teacher, dataset)
    refuse_to_compile(experiment, distiller)
    refuse_to_mix(experiment, distiller)
    refuse_beyond_memory(experiment, distiller, place)
    refuse_small_batches(experiment, distiller, process)
    distiller.to(place.device).to(memory_format=place.memory_format)  # pyright: ignore[reportCallIssue]
    train = training_batches(experiment, dataset, place, process)
    workers = experiment.data.num_workers
    said = tuple(_as_given(note, experiment) for note in notes)
    return Prepared(dataset, place, distiller, student, teacher, train, workers, said, teacher_input)


def _open_student(experiment: Experiment, dataset: DataSet) -> tuple[OpenedModel, list[str]]:
    """The student for the classes of the data, and what is to be said of it."""
    student = open_model(expand(experiment.student), dataset.num_classes, image_size=dataset.image_size)
    notes: list[str] = []
    if student.num_classes != dataset.num_classes:
        notes.append(f"the student's weights have {student.num_classes or 'no'} classes")
        student = open_model(
            expand(experiment.student), dataset.num_classes, image_size=dataset.image_size, new_head=True
        )
    side = (dataset.image_size, dataset.image_size)
    check_channels(student.module, experiment.student, side)
    if experiment.match_classes is None:
        student = with_classes_of(student, dataset.classes, side, named=dataset.named)
        difference = other_classes(student, dataset)
        notes += [f"the student's last layer starts from that of other classes: {difference}"] if difference else []
    notes += (*student.notes, *notes_on_its_own(Path(expand(experiment.student))))
    return student, notes


def _distiller(
    experiment: Experiment,
    dataset: DataSet,
    student: OpenedModel,
    teacher: OpenedModel | None,
    teacher_input: Input | None,
) -> Distiller:
    with unwarned():
        return Distiller(
            student.module,
            teacher.module if teacher is not None else None,
            experiment.methods,
            task_weight=experiment.task_weight,
            example=torch.empty(2, 3, dataset.image_size, dataset.image_size),
            student_input=Input(dataset.mean, dataset.std),
            teacher_input=teacher_input,
            train_labels=torch.tensor(dataset.train.labels),
        )


def _decided(experiment: Experiment, distiller: Distiller) -> list[str]:
    """What methods made of settings that they decide by the networks."""
    notes: list[str] = []
    for method, decided in zip(experiment.methods, distiller.methods, strict=True):
        changed = [f.name for f in fields(method) if getattr(method, f.name) != getattr(decided, f.name)]
        notes += [
            f"{method.key}: {name}={getattr(method, name)} means {getattr(decided, name)} here" for name in changed
        ]
    return notes


def _never_comes_down(experiment: Experiment) -> list[str]:
    if experiment.optimisation.warmup_epochs < experiment.training.epochs:
        return []
    return [
        f"the learning rate rises until epoch {experiment.optimisation.warmup_epochs:g}, and training ends with epoch "
        f"{experiment.training.epochs}: it never decays; lower --warmup-epochs, or train longer"
    ]


def training_batches(experiment: Experiment, dataset: DataSet, place: Arithmetic, process: Process) -> Loader:
    """Batches to learn from, as an experiment says."""
    return loader(
        dataset.train,
        dataset,
        batch_size=experiment.training.batch_size,
        train=True,
        augment=experiment.data.augment,
        changes=experiment.data.changes,
        mixing=experiment.data.mixing,
        seed=experiment.seed,
        device=place.device,
        num_workers=experiment.data.num_workers,
        channels_last=place.memory_format == torch.channels_last,
        rank=process.rank,
        world_size=process.world_size,
    )


def _as_given(note: str, experiment: Experiment) -> str:
    """A note with paths as the user wrote them, so that what is copied from it holds on other machines."""
    for spec in filter(None, (experiment.student, experiment.teacher)):
        for given in (spec, spec.partition("@")[2]):
            if "$" in given:
                note = note.replace(expand(given), given)
    return note


def _open_teacher(experiment: Experiment, dataset: DataSet) -> OpenedModel | None:
    if experiment.teacher is None:
        return None
    teacher = open_at_its_size(experiment.teacher, dataset, by_name=experiment.match_classes is None)
    if not teacher.trained and not experiment.untrained_teacher:
        raise InputError(
            f"the teacher {experiment.teacher!r} comes without weights and would teach noise: write NAME@FILE, "
            "NAME@pretrained (timm, torchvision, hf) or a run folder"
        )
    if not teacher.trained:
        settle_norms(teacher.module, expected_size(teacher, dataset))
    return teacher
