"""`batch-graph RUN --figure FILE`: which images of a batch a teacher and its student relate to which."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, cast

import tyro

from attention_transfer.analysis.batch_graph import batch_graphs, images_of_classes, learned_graphs, recorded_teacher
from attention_transfer.analysis.class_maps import chosen_images, pictures
from attention_transfer.analysis.measure import chosen_split
from attention_transfer.commands.data_of_runs import downloads, own_data
from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.errors import InputError, printable
from attention_transfer.experiment import Data, Training
from attention_transfer.files.env_paths import expand
from attention_transfer.report.batch_graph import batch_graph_figure
from attention_transfer.report.plots import check_picture
from attention_transfer.runs import RunFolder
from attention_transfer.training.prepare import load_data


@dataclass(frozen=True)
class Flags:
    """Draw the graphs of multi-head graph distillation: images on a circle, the strongest edges of each head.

    An edge runs from an image to one that it attends to; the darker, the larger its share, measured by the largest one
    of that head. Green edges stay within a class, red ones leave it. The first row is the teacher, the second the
    student. Images are those of the data that the run was trained on, unless --data says otherwise.

    Args:
        run: folder of a finished run with the method mhgd.
        figure: where the picture goes; its suffix chooses the format.
        split: which images.
        images: so many of them, the same number of each class; about 16 if neither this nor --index is given.
        classes: from so many classes, spread evenly over those there are; 4 of them, or all if they are fewer, if this
            is not given.
        index: these images, by position from 0.
        graph: which graph, counted from 1; 0 is the last one.
        heads: which heads, counted from 1; all if not given.
        edges: so many of each head.
        device: `auto` takes an accelerator if there is one.
        seed: chooses the validation images, as it did in training.
        teacher: the run's own, if it lies elsewhere now; that which the run names if not given.
        allow_download: fetch what run folders name; without it, only what you name yourself.
    """

    run: Annotated[Path, tyro.conf.Positional]
    figure: Path
    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    split: Literal["test", "validation", "train"] = "test"
    images: int | None = None
    classes: int | None = None
    index: tuple[int, ...] | None = None
    graph: int = 0
    heads: tuple[int, ...] | None = None
    edges: int = 24
    device: str = "auto"
    seed: int = 0
    teacher: str | None = None
    allow_download: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `batch-graph`."""
    flags = parsed(
        Flags,
        "batch-graph",
        arguments,
        Flags(run=cast(Path, tyro.MISSING), figure=cast(Path, tyro.MISSING), data=own_data(arguments)),
    )
    check_picture(flags.figure)
    run = RunFolder(expand(str(flags.run)))
    may_fetch = downloads(arguments, flags.allow_download)
    if flags.teacher is None and learned_graphs(run):
        teacher = recorded_teacher(run, allow_download=may_fetch.recorded)
        print(printable(f"note: {run.path} names the teacher that is read: {teacher} (--teacher gives another)"))
    dataset = load_data(flags.data, flags.seed, download=may_fetch.data)
    split = chosen_split(dataset, flags.split)
    if flags.index is None:
        index = images_of_classes(split, flags.images, flags.classes)
    else:
        index = chosen_images(split, flags.images, flags.index)
    if len(index) < 2:
        raise InputError("a graph needs at least two images: give --index two positions or more")
    shown = split.subset(index)
    settings = Training(device=flags.device)
    found = batch_graphs(run, dataset, shown, settings, flags.teacher, allow_download=may_fetch.recorded)
    count = len(found.teacher)
    if not 0 <= flags.graph <= count:
        raise InputError(f"the run has the graphs 1 to {count}; there is no graph {flags.graph}")
    # 0 is the last one.
    graphs = {"teacher": found.teacher[flags.graph - 1], "student": found.student[flags.graph - 1]}
    heads = flags.heads or range(1, len(graphs["teacher"]) + 1)
    batch_graph_figure(
        pictures(dataset, shown, flags.data.num_workers),
        shown.labels,
        graphs,
        [head - 1 for head in heads],
        flags.edges,
        flags.figure,
    )
    for note in found.notes:
        print(printable(f"note: {note}"))
    print(
        f"picture: {flags.figure}   (images {' '.join(map(str, index))} of {flags.split}, graph {flags.graph or count})"
    )
