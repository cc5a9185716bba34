"""`attention-maps MODEL... --figure FILE`: pictures of where vision transformers look."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import tyro
from jaxtyping import Float

from attention_transfer.analysis.class_maps import chosen_images, pictures
from attention_transfer.analysis.map_kinds import MapReader, MapRequest
from attention_transfer.analysis.subject import Subject, open_subjects
from attention_transfer.commands.own_data import own_data
from attention_transfer.data import Split
from attention_transfer.experiment import Data, Training
from attention_transfer.report.plots import attention_figure
from attention_transfer.training.prepare import load_data

_IMAGES_AT_A_TIME = 16


@dataclass(frozen=True)
class Flags:
    """Draw where vision transformers look: what the class token takes from each patch, mean over all heads and layers.

    Without a class token, it is the mean query that looks. Run folders are given images of the data that they were
    trained on, unless --data says otherwise. Each map has colours of its own full range. Boxes around objects are drawn
    where the data has some.

    Args:
        models: run folders, or names with @FILE or @pretrained behind them.
        figure: where the picture goes; its suffix chooses the format.
        split: which images.
        images: so many of them, spread evenly over the split; 6 if neither this nor --index is given.
        index: these of them, by position from 0.
        boxes: whether boxes are drawn.
        device: `auto` takes an accelerator if there is one.
        threads: CPU threads; None leaves torch's choice.
        mean: per channel, given pixels in 0…1, of the images of models whose weights do not say; the data's if not
            given.
        std: per channel, likewise.
        seed: chooses the validation images, as it did in training.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL [MODEL ...]")]
    figure: Path
    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    split: Literal["test", "validation", "train"] = "test"
    images: int | None = None
    index: tuple[int, ...] | None = None
    boxes: bool = True
    device: str = "auto"
    threads: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    seed: int = 0


def command(arguments: Sequence[str]) -> None:
    """Run `attention-maps`."""
    flags = tyro.cli(
        Flags,
        prog="attention-transfer attention-maps",
        args=list(arguments),
        default=Flags(
            models=cast("tuple[str, ...]", tyro.MISSING), figure=cast(Path, tyro.MISSING), data=own_data(arguments)
        ),
        config=(tyro.conf.AvoidSubcommands,),
    )
    data = flags.data
    if flags.split == "test":
        # Nothing is learned from: one training image is the least that a data set can have.
        data = replace(data, train_limit=1, validation_fraction=0.0, train_classes=None, train_fraction=None)
    dataset = load_data(data, flags.seed)
    split = {"test": dataset.test, "validation": dataset.validation, "train": dataset.train}[flags.split]
    if split is None:
        raise ValueError("nothing was set aside for validation: give --validation-fraction, as in training")
    index = chosen_images(split, flags.images, flags.index)
    shown = split.subset(index)
    settings = Training(device=flags.device, threads=flags.threads)
    subjects = open_subjects(flags.models, dataset, settings, flags.mean, flags.std)
    maps = {title: _maps(subject, shown) for title, subject in zip(_titles(flags.models), subjects, strict=True)}
    boxes = shown.boxes if flags.boxes else None
    attention_figure(pictures(dataset, shown, flags.data.num_workers), maps, boxes, flags.figure)
    for note in dict.fromkeys(note for subject in subjects for note in subject.notes):
        print(f"note: {note}")
    print(f"picture: {flags.figure}   (images {' '.join(map(str, index))} of {flags.split})")


def _maps(subject: Subject, split: Split) -> Float[np.ndarray, "n r c"]:
    reader = MapReader(subject, MapRequest(("attention",)))
    try:
        return np.concatenate([
            reader(image, label)[1]["attention"] for image, label in subject.batches(split, _IMAGES_AT_A_TIME)
        ])
    finally:
        reader.close()


def _titles(models: Sequence[str]) -> list[str]:
    """The last parts of models' names, or the whole ones where these would not tell them apart."""
    short = [Path(name.rpartition("@")[2]).name or name for name in models]
    return short if len(set(short)) == len(short) else list(models)
