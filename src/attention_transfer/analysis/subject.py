"""A trained network opened for analysis, with its device, data set and normalisation.

>>> open_subjects([], None, Training())
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: give at least one model: a run folder, NAME@FILE or NAME@pretrained
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from attention_transfer.data import DataSet, Loader, Split, loader
from attention_transfer.errors import InputError
from attention_transfer.experiment import Training
from attention_transfer.models import Input, OpenedModel, Renormalise
from attention_transfer.training.device import Arithmetic, choose_arithmetic
from attention_transfer.training.prepare import expected_input, open_at_its_size
from attention_transfer.training.refusals import other_classes

Colours = tuple[float, float, float]


@dataclass(frozen=True)
class Subject:
    """A trained network, ready to be analysed.

    Args:
        name: name of the network, as its user wrote it.
        opened: the network, in evaluation mode, on the device of `place`.
        place: device and precision.
        dataset: data set of its images.
        prepare: normalises and resizes the data set's images as the network expects them.
        notes: what was assumed because it could not be determined.
    """

    name: str
    opened: OpenedModel
    place: Arithmetic
    dataset: DataSet
    prepare: Renormalise
    notes: tuple[str, ...]

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.opened.module

    def loader(self, split: Split, batch_size: int, num_workers: int = 0) -> Loader:
        """Images of a split, in order and without augmentation, normalised as the data set has it (see `prepare`).

        Args:
            split: of the data set.
            batch_size: images at a time.
            num_workers: processes that decode photographs.
        """
        return loader(
            split,
            self.dataset,
            batch_size=batch_size,
            train=False,
            device=self.place.device,
            num_workers=num_workers,
            channels_last=self.place.memory_format == torch.channels_last,
        )

    def batches(
        self, split: Split, batch_size: int, num_workers: int = 0
    ) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Int64[Tensor, " b"]]]:
        """Images of a split, normalised as the network expects them, with their labels, in order, not augmented.

        Args:
            split: of the data set.
            batch_size: images at a time.
            num_workers: processes that decode photographs.
        """
        for batch in self.loader(split, batch_size, num_workers).epoch(0):
            assert batch.label is not None
            yield self.prepare(batch.image), batch.label


def open_subjects(
    names: Sequence[str],
    dataset: DataSet,
    settings: Training,
    mean: Colours | None = None,
    std: Colours | None = None,
    *,
    allow_download: bool = False,
) -> tuple[Subject, ...]:
    """Open trained networks for images of one data set.

    Args:
        names: models as on the command line.
        dataset: data set of the images.
        settings: settings of which device and memory format are used.
        mean: mean per channel of the images, for pixels in 0…1, for networks whose weights do not have it; None takes
            the data set's.
        std: standard deviation per channel of the images, for the same networks; None takes the data set's.
        allow_download: whether what run folders name may be downloaded.

    Raises:
        ValueError: no names, a network without weights, or a mean that no network needs.
    """
    if not names:
        raise InputError("give at least one model: a run folder, NAME@FILE or NAME@pretrained")
    if (mean is None) != (std is None):
        raise InputError("give --mean and --std together, or neither")
    subjects = tuple(
        _subject(name, open_at_its_size(name, dataset, allow_download=allow_download), dataset, settings, mean, std)
        for name in names
    )
    if mean is not None and all(subject.opened.input for subject in subjects):
        raise InputError("the weights of these models say how their images are normalised: leave out --mean and --std")
    return subjects


def _subject(
    name: str,
    opened: OpenedModel,
    dataset: DataSet,
    settings: Training,
    mean: Colours | None,
    std: Colours | None,
) -> Subject:
    if not opened.trained:
        raise InputError(f"{name!r} names a network without weights: write NAME@FILE, NAME@pretrained or a run folder")
    given = Input(dataset.mean, dataset.std)
    expected = expected_input(opened, given) if opened.input else expected_input(opened, given, mean, std)
    place = choose_arithmetic(settings, opened.description.convolutional)
    opened.module.to(place.device).to(memory_format=place.memory_format)  # pyright: ignore[reportCallIssue]
    notes = list(opened.notes)
    if opened.input is None and mean is None:
        notes.append(
            f"the normalisation of {name} is unknown: taken to be that of {dataset.name}; if its weights were trained "
            "with another, give mean and std"
        )
    difference = other_classes(opened, dataset)
    if difference:
        notes.append(f"{name} was trained on other classes, and is compared by their indices: {difference}")
    side = dataset.image_size
    if expected.size is not None and expected.size != (side, side):
        notes.append(
            f"{name} takes images of {expected.size[0]}×{expected.size[1]}: those of {side}×{side} are resized"
        )
    return Subject(name, opened, place, dataset, Renormalise(given, expected).to(place.device), tuple(notes))
