"""`attention-maps MODEL... --figure FILE`: pictures of where vision transformers look."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import tyro
from jaxtyping import Float

from attention_transfer.analysis.map_kinds import MapReader, MapRequest
from attention_transfer.analysis.subject import Subject, open_subjects
from attention_transfer.commands.data_of_runs import downloads, own_data, titles
from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.commands.image_selection import DrawnImages, drawn_images
from attention_transfer.experiment import Data, Training
from attention_transfer.report.plots import attention_figure, check_picture

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
        mean: mean per channel, for pixels in 0…1, of the images of models whose weights do not have it; the data set's
            if not given.
        std: standard deviation per channel of those images; the data set's if not given.
        seed: chooses the validation images, as it did in training.
        allow_download: fetch what run folders name; without it, only what you name yourself.
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
    allow_download: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `attention-maps`."""
    flags = parsed(
        Flags,
        "attention-maps",
        arguments,
        Flags(models=cast("tuple[str, ...]", tyro.MISSING), figure=cast(Path, tyro.MISSING), data=own_data(arguments)),
    )
    check_picture(flags.figure)
    may_fetch = downloads(arguments, flags.allow_download)
    shown = drawn_images(flags.data, flags.split, flags.images, flags.index, flags.seed, may_fetch.data)
    settings = Training(device=flags.device, threads=flags.threads)
    models = list(dict.fromkeys(flags.models))
    subjects = open_subjects(models, shown.dataset, settings, flags.mean, flags.std, allow_download=may_fetch.recorded)
    maps = {title: _maps(subject, shown) for title, subject in zip(titles(models), subjects, strict=True)}
    attention_figure(shown.pictures(), maps, shown.split.boxes if flags.boxes else None, flags.figure)
    shown.say(flags.figure, subjects)


def _maps(subject: Subject, shown: DrawnImages) -> Float[np.ndarray, "n r c"]:
    reader = MapReader(subject, MapRequest(("attention",)))
    try:
        batches = subject.batches(shown.split, _IMAGES_AT_A_TIME, shown.num_workers)
        return np.concatenate([reader(image, label)[1]["attention"] for image, label in batches])
    finally:
        reader.close()
