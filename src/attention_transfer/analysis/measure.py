"""Evaluation of any model on any split, outside of training."""

from typing import Literal

from attention_transfer.analysis.subject import Colours, open_subjects
from attention_transfer.data import DataSet, Split
from attention_transfer.errors import InputError
from attention_transfer.experiment import Data, Training
from attention_transfer.experiment.data import Downloads
from attention_transfer.training.evaluate import Score, evaluate
from attention_transfer.training.prepare import load_data

SplitName = Literal["test", "validation", "train", "unseen"]

_NOT_THERE = {
    "validation": "nothing was set aside for validation: give --validation-fraction, as in training",
    "unseen": "there are no classes that training leaves out: give --train-classes, fewer than the data set has",
}


def measure(
    model: str,
    data: Data,
    split: SplitName,
    settings: Training,
    seed: int = 0,
    mean: Colours | None = None,
    std: Colours | None = None,
    downloads: Downloads | None = None,
) -> tuple[Score, tuple[str, ...]]:
    """Open a model and measure it on a split.

    Args:
        model: as on the command line.
        data: data set.
        split: name of its split; `unseen` are the test images of the classes that `train_classes` leaves out.
        settings: settings of which batch size, device and precision are used.
        seed: seed of the choice of validation images.
        mean: mean per channel of the model's images, for pixels in 0…1, where its weights do not have it; None
            takes the data set's.
        std: standard deviation per channel of the model's images, for pixels in 0…1; None takes the data set's.
        downloads: what may be downloaded.

    Returns:
        The score, and what was assumed because it could not be determined.

    Raises:
        ValueError: if the model has no weights, other classes than the data, or a normalisation of its own beside that
            which is given, or the split does not exist.
    """
    downloads = downloads or Downloads()
    dataset = load_data(data, seed, download=downloads.data)
    chosen = chosen_split(dataset, split)
    (subject,) = open_subjects([model], dataset, settings, mean, std, allow_download=downloads.recorded)
    if subject.opened.num_classes != dataset.num_classes:
        raise InputError(f"{model} has {subject.opened.num_classes} classes, {dataset.name} has {dataset.num_classes}")
    images = subject.loader(chosen, settings.batch_size, data.num_workers)
    score = evaluate(subject.module, images, subject.place, subject.prepare)
    return score.of(dataset, split), subject.notes


def chosen_split(dataset: DataSet, name: SplitName) -> Split:
    """A split by name.

    Example:
        >>> import numpy as np
        >>> split = Split(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]))
        >>> grey = (0.5, 0.5, 0.5)
        >>> dataset = DataSet("mine", ("cat", "dog"), split, None, split, grey, grey, 8, photographs=False)
        >>> chosen_split(dataset, "test") is split
        True
        >>> chosen_split(dataset, "validation")
        Traceback (most recent call last):
            ...
        attention_transfer.errors.InputError: nothing was set aside for validation: give --validation-fraction, ...

    Raises:
        ValueError: the data set has none of that name as it was loaded.
    """
    if name not in dataset.splits:
        raise InputError(_NOT_THERE[name])
    return dataset.splits[name]
