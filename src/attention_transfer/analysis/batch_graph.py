"""Graphs between the images of a batch, from the trained heads of multi-head graph distillation.

>>> split = Split(np.zeros((6, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1, 0, 1]))
>>> images_of_classes(split, count=4, classes=2).tolist()
[0, 2, 1, 3]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from attention_transfer.analysis.subject import Subject, open_subjects
from attention_transfer.capture import Capture, Tap, undisturbed
from attention_transfer.data import DataSet, Split
from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment, Training, read_experiment
from attention_transfer.methods import MultiHeadGraph, Observed
from attention_transfer.methods.multi_head_graph.heads import GraphParts
from attention_transfer.methods.multi_head_graph.method import teacher_embedding
from attention_transfer.models.fingerprint import Fingerprint, WeightFingerprint, fingerprint, fingerprint_of_reading
from attention_transfer.models.naming import check_recorded
from attention_transfer.models.weight_files import read_tensors
from attention_transfer.models.weights import fit_weights
from attention_transfer.runs import PARTS_WEIGHTS, RunFolder

# Defaults: four images of each of four classes fill one figure.
_IMAGES, _CLASSES = 16, 4


@dataclass(frozen=True)
class BatchGraphs:
    """Graphs between some images: of each pair of layers, the shares of every head, whose rows sum to one.

    Args:
        teacher: graphs of the teacher, one for each pair of layers.
        student: graphs of the student, one for each pair of layers.
        notes: what was assumed because it could not be determined.
    """

    teacher: tuple[Float[np.ndarray, "a n n"], ...]
    student: tuple[Float[np.ndarray, "a n n"], ...]
    notes: tuple[str, ...]


@torch.no_grad()
def batch_graphs(
    run: RunFolder,
    dataset: DataSet,
    split: Split,
    settings: Training,
    teacher: str | None = None,
    *,
    allow_download: bool = False,
) -> BatchGraphs:
    """The graphs that the heads of a run see among some images, as one batch.

    Args:
        run: a finished run that was trained with `MultiHeadGraph`.
        dataset: data set of the images.
        split: at least two images, few.
        settings: device and memory format count.
        teacher: as on the command line; None takes that of the run.
        allow_download: whether what run folders name may be downloaded.

    Returns:
        Softmax over the images of each row of the heads' scores, as the heads themselves use it; of plain similarity
        one head, for all are alike.

    Raises:
        ValueError: the run is not finished, has no such method, or its teacher has changed since.
    """
    experiment = read_experiment(run)
    method, key = _method(run, experiment)
    if not run.finished:
        raise InputError(f"{run.path} is not finished: its student and heads are kept at the end of training")
    named = teacher or recorded_teacher(run, allow_download=allow_download)
    taught, student = (
        open_subjects([spec], dataset, settings, *colours, allow_download=allow_download)[0]
        for spec, colours in (
            (named, (experiment.teacher_mean, experiment.teacher_std)),
            (str(run.path), (None, None)),
        )
    )
    reads = method.reads(taught.opened.description, student.opened.description)
    theirs, ours = (
        _features(subject, taps, split, role)
        for subject, taps, role in ((taught, reads.teacher.taps, "teacher"), (student, reads.student.taps, "student"))
    )
    mark = Fingerprint(fingerprint(taught.module), fingerprint_of_reading(reads.teacher.taps, None))
    parts = _parts(run, method, key, (theirs, mark), ours)
    vectors = teacher_embedding(theirs)
    heads = 1 if method.graph == "similarity" else method.heads
    found = [
        tuple(scores[:heads].softmax(2).cpu().numpy() for scores in method.scores(each, parts))
        for each in (vectors, method.student_embedding(ours, vectors, parts))
    ]
    return BatchGraphs(*found, notes=(*taught.notes, *student.notes))


def learned_graphs(run: RunFolder) -> bool:
    """Whether a run has reached its end, and has graphs to show."""
    return run.finished and any(isinstance(method, MultiHeadGraph) for method in read_experiment(run).methods)


def recorded_teacher(run: RunFolder, *, allow_download: bool = False) -> str:
    """The teacher that a run names.

    Args:
        run: trained with a teacher.
        allow_download: whether it may be downloaded.

    Raises:
        ValueError: the run names none, or one that would be downloaded.
    """
    experiment = read_experiment(run)
    if experiment.teacher is None:
        raise InputError(f"{run.path} names no teacher: give --teacher")
    return check_recorded(experiment.teacher, run.path, allow_download=allow_download)


def images_of_classes(split: Split, count: int | None = None, classes: int | None = None) -> Int64[np.ndarray, " n"]:
    """Dataset indices of equally many images of some classes, class by class.

    Args:
        split: images.
        count: number of images together, at least 2; None takes about 16.
        classes: number of classes, spread evenly over those there are, at least 1; None takes 4, or all if fewer.

    Raises:
        ValueError: for other numbers, or more than there are.
    """
    known = np.unique(split.labels)
    classes = min(_CLASSES, len(known)) if classes is None else classes
    count = max(1, _IMAGES // max(1, classes)) * classes if count is None else count
    if not 1 <= classes <= len(known) or count < 2 or count % classes:
        raise InputError(
            f"images must be at least 2 and a multiple of classes, which must be between 1 and {len(known)}; not "
            f"{count} images of {classes} classes"
        )
    chosen = known[np.linspace(0, len(known) - 1, classes).round().astype(np.int64)]
    each = count // classes
    chosen_of_each = [np.flatnonzero(split.labels == label)[:each] for label in chosen]
    few = [int(label) for label, found in zip(chosen, chosen_of_each, strict=True) if len(found) < each]
    if few:
        raise InputError(f"class {few[0]} has fewer than {each} images here: ask for fewer images")
    return np.concatenate(chosen_of_each).astype(np.int64)


def _method(run: RunFolder, experiment: Experiment) -> tuple[MultiHeadGraph, str]:
    for method in experiment.methods:
        if isinstance(method, MultiHeadGraph):
            # The run has its own heads now; those it started from may be gone.
            return replace(method, graph_from=None), method.key
    methods = ", ".join(method.key for method in experiment.methods) or "nothing"
    raise InputError(f"{run.path} was trained with {methods}: give a run of {MultiHeadGraph.key}, which has graphs")


def _features(subject: Subject, taps: Sequence[Tap], split: Split, role: str) -> tuple[Tensor, ...]:
    capture = Capture(subject.module, taps, role)
    try:
        with undisturbed(subject.module):
            subject.module.eval()
            (images,) = [image for image, _ in subject.batches(split, len(split))]
            reading = capture.run(images)
    finally:
        capture.close()
    return tuple(reading.spatial(tap).float() for tap in taps)


def _parts(
    run: RunFolder,
    method: MultiHeadGraph,
    key: str,
    teacher: tuple[tuple[Tensor, ...], Fingerprint],
    student: tuple[Tensor, ...],
) -> GraphParts | None:
    """The modules that the run trained beside its student; None if there are none."""
    features, mark = teacher
    parts = method.parts(Observed(None, features, provided={WeightFingerprint(): mark}), Observed(None, student))
    if parts is None:
        return None
    if run.parts is None:
        raise InputError(f"{run.path} holds no {PARTS_WEIGHTS}: its trained heads are missing")
    kept = read_tensors(run.parts)
    if f"{key}.teacher" not in kept:
        raise InputError(f"{run.parts} holds no heads of {key}: it is not what this run learned")
    if kept[f"{key}.teacher"].tolist() != list(mark.weights):
        raise InputError(
            f"the weights of the teacher of {run.path} have changed since its heads were trained: restore them"
        )
    own = {name.removeprefix(f"{key}."): value for name, value in kept.items() if name.startswith(f"{key}.")}
    fit_weights(parts, own, str(run.parts))
    return parts.to(features[0].device).eval()
