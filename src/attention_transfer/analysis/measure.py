"""Any model on any data, outside of training."""

from typing import Literal

from attention_transfer.analysis.subject import Colours, open_subjects
from attention_transfer.data import DataSet, Split
from attention_transfer.errors import InputError
from attention_transfer.experiment import Data, Training
from attention_transfer.runs.downloads import Downloads
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
        data: which images.
        split: of them; `unseen` are the test images of the classes that `train_classes` leaves out.
        settings: batch size, device and precision count.
        seed: chooses the validation images.
        mean: per channel, of the model's images given pixels in 0…1, where its weights do not say; None takes the
            data's.
        std: per channel, likewise.
        downloads: what may be fetched.

    Returns:
        The score, and what was assumed where nobody said.

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

    Raises:
        ValueError: the data set has none of that name as it was loaded.
    """
    if name not in dataset.splits:
        raise InputError(_NOT_THERE[name])
    return dataset.splits[name]
