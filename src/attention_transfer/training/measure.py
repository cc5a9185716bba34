"""Any model on any data, outside of training."""

from typing import Literal

import torch
from torch import nn

from attention_transfer.data import loader
from attention_transfer.experiment import Data, Training
from attention_transfer.models import Input, Renormalise
from attention_transfer.training.device import choose_place
from attention_transfer.training.evaluate import Score, evaluate
from attention_transfer.training.prepare import expected_input, load_data, open_at_its_size


def measure(
    model: str,
    data: Data,
    split: Literal["test", "validation", "train"],
    settings: Training,
    seed: int = 0,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> tuple[Score, tuple[str, ...]]:
    """Open a model and measure it on a split.

    Args:
        model: as on the command line.
        data: which images.
        split: of them.
        settings: batch size, device and precision count.
        seed: chooses the validation images.
        mean: per channel, of the model's images given pixels in 0…1; None where its weights say so, or the data.
        std: per channel, likewise.

    Returns:
        The score, and what was assumed where nobody said.

    Raises:
        ValueError: if the model has no weights, other classes than the data, or the split does not exist.
    """
    dataset = load_data(data, seed)
    opened = open_at_its_size(model, dataset)
    if not opened.trained:
        raise ValueError(f"{model!r} names a network without weights: write NAME@FILE, NAME@pretrained or a run folder")
    if opened.num_classes != dataset.num_classes:
        raise ValueError(f"{model} has {opened.num_classes} classes, {dataset.name} has {dataset.num_classes}")
    chosen = {"test": dataset.test, "validation": dataset.validation, "train": dataset.train}[split]
    if chosen is None:
        raise ValueError("nothing was set aside for validation: give --validation-fraction, as in training")
    place = choose_place(settings, opened.description.convolutional)
    network: nn.Module = opened.module.to(place.device)
    network.to(memory_format=place.memory_format)  # pyright: ignore[reportCallIssue]
    given = Input(dataset.mean, dataset.std)
    images = loader(
        chosen,
        dataset,
        batch_size=settings.batch_size,
        train=False,
        device=place.device,
        num_workers=data.num_workers,
        channels_last=place.memory_format == torch.channels_last,
    )
    prepare = Renormalise(given, expected_input(opened, given, mean, std)).to(place.device)
    notes = (
        () if opened.input or mean else (f"the model's normalisation is unknown: taken to be that of {dataset.name}",)
    )
    return evaluate(network, images, place, prepare), notes
