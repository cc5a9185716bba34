"""`class-maps MODEL... --figure FILE`: where networks find the evidence for their classes, drawn over images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import tyro
from jaxtyping import Int64

from attention_transfer.analysis.class_maps import Evidence, evidence
from attention_transfer.analysis.subject import open_subjects
from attention_transfer.commands.data_of_runs import downloads, own_data, titles
from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.commands.image_selection import drawn_images
from attention_transfer.data import DataSet, Split
from attention_transfer.errors import InputError
from attention_transfer.experiment import Data, Training
from attention_transfer.files.env_paths import expand
from attention_transfer.report.class_maps import MapColumns, class_maps_figure
from attention_transfer.report.plots import check_picture
from attention_transfer.runs import RunFolder, is_run

_TOP = 4


@dataclass(frozen=True)
class Flags:
    """Draw class maps over images: of the classes that each model finds most likely, or of one class along training.

    For networks whose logits are a linear layer of globally averaged features. Run folders are given images of the data
    that they were trained on, unless --data says otherwise. The title of an image's own class is bold; numbers are
    probabilities. Each map has colours of its own full range.

    Args:
        models: run folders, or names with @FILE or @pretrained behind them.
        figure: where the picture goes; its suffix chooses the format.
        split: which images.
        images: so many of them, spread evenly over the split; 6 if neither this nor --index is given.
        index: these of them, by position from 0.
        top: draw maps of so many classes, those with the highest scores; 4, or all if there are fewer, if
            not given.
        same_classes: for every model draw the classes that the first one finds most likely, as to compare a teacher
            with its student.
        binarise: draw below each map where it lies above the `mean` of its magnitudes, or above its `median`.
        resolution: average maps to so many rows and columns, as class attention transfer does.
        along_training: draw one run at each of its snapshots and at its end (train with --snapshot-epochs).
        class_of: with --along-training, the class whose maps are drawn: the image's own (`true`, if not given), or the
            one that the end finds most likely (`predicted`).
        network_layer: module whose globally averaged output the head takes, where it could not be determined.
        device: `auto` takes an accelerator if there is one.
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
    top: int | None = None
    same_classes: bool = False
    binarise: Literal["none", "mean", "median"] = "none"
    resolution: int | None = None
    along_training: bool = False
    class_of: Literal["true", "predicted"] | None = None
    network_layer: str | None = None
    device: str = "auto"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    seed: int = 0
    allow_download: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `class-maps`."""
    flags = parsed(
        Flags,
        "class-maps",
        arguments,
        Flags(models=cast("tuple[str, ...]", tyro.MISSING), figure=cast(Path, tyro.MISSING), data=own_data(arguments)),
    )
    check_picture(flags.figure)
    _refuse_contradictions(flags)
    moments = _moments(flags.models) if flags.along_training else {}
    may_fetch = downloads(arguments, flags.allow_download)
    shown = drawn_images(flags.data, flags.split, flags.images, flags.index, flags.seed, may_fetch.data)
    dataset, settings = shown.dataset, Training(device=flags.device)
    names = list(moments) if flags.along_training else list(flags.models)
    subjects = open_subjects(names, dataset, settings, flags.mean, flags.std, allow_download=may_fetch.recorded)
    found = [evidence(subject, shown.split, flags.network_layer, shown.num_workers) for subject in subjects]
    if flags.along_training:
        groups = _along_training(found, list(moments.values()), shown.split, dataset, flags)
    else:
        groups = _of_models(found, shown.split, dataset, flags)
    places = zip(shown.split.labels, shown.index, strict=True)
    captions = [f"{dataset.classes[label]} #{place}" for label, place in places]
    class_maps_figure(shown.pictures(), captions, groups, flags.figure)
    shown.say(flags.figure, subjects)


def _refuse_contradictions(flags: Flags) -> None:
    if flags.along_training and (flags.top is not None or flags.same_classes):
        raise InputError("--along-training draws one class at every moment: leave out --top and --same-classes")
    if not flags.along_training and flags.class_of is not None:
        raise InputError("--class-of goes with --along-training; without it, --top says how many classes are drawn")


def _moments(models: Sequence[str]) -> dict[str, str]:
    """Models of one run along its training, in order, with what to write above their maps.

    Raises:
        ValueError: this is not one run, or it kept no snapshots.
    """
    if len(models) != 1 or not is_run(expand(models[0])):
        raise InputError("--along-training draws one run: give one run folder")
    run = RunFolder(expand(models[0]))
    moments = {str(path): f"epoch {epoch}" for epoch, path in run.snapshots.items()}
    if not moments:
        raise InputError(f"{models[0]} kept no snapshots: train with --snapshot-epochs, such as 1 5 20")
    summary = run.summary
    end = None if summary is None else summary.get("epochs")
    if end is not None and end not in run.snapshots:
        moments[str(run.path)] = f"epoch {end}"
    return moments


def _of_models(found: Sequence[Evidence], shown: Split, dataset: DataSet, flags: Flags) -> list[MapColumns]:
    """The classes with the highest scores of each model."""
    sizes = {each.probabilities.shape[1] for each in found}
    if flags.same_classes and len(sizes) > 1:
        raise InputError(f"--same-classes needs models of the same classes, not of {' and '.join(map(str, sizes))}")
    count = min(_TOP, *sizes) if flags.top is None else flags.top
    headers = titles([each.name for each in found])
    chosen = [(found[0] if flags.same_classes else each).ranked(count) for each in found]
    return [
        _columns(header, each, classes, shown, dataset, flags)
        for header, each, classes in zip(headers, found, chosen, strict=True)
    ]


def _along_training(
    found: Sequence[Evidence], headers: Sequence[str], shown: Split, dataset: DataSet, flags: Flags
) -> list[MapColumns]:
    """One class of each image at every moment."""
    if flags.class_of == "predicted":
        classes = found[-1].ranked(1)
    else:
        num_classes = found[-1].probabilities.shape[1]
        if num_classes != dataset.num_classes:
            raise InputError(
                f"the run has {num_classes} classes and {dataset.name} {dataset.num_classes}: an image's own class is "
                "none of the run's; give --class-of predicted, or the data it was trained on"
            )
        classes = shown.labels[:, None]
    return [_columns(header, each, classes, shown, dataset, flags) for header, each in zip(headers, found, strict=True)]


def _columns(
    header: str, found: Evidence, classes: Int64[np.ndarray, "n m"], shown: Split, dataset: DataSet, flags: Flags
) -> MapColumns:
    known = found.probabilities.shape[1] == dataset.num_classes
    names = dataset.classes if known else [f"class {k}" for k in range(found.probabilities.shape[1])]
    scores = found.scores(classes)
    return MapColumns(
        header,
        found.of(classes, flags.resolution),
        [[f"{names[k]} {_rounded(p)}" for k, p in zip(*row, strict=True)] for row in zip(classes, scores, strict=True)],
        classes == shown.labels[:, None] if known else None,
        None if flags.binarise == "none" else found.of(classes, flags.resolution, flags.binarise),
    )


def _rounded(probability: float) -> str:
    return "<0.01" if probability < 0.005 else f"{probability:.2f}"
