"""Comparison of runs: groups that differ only in their seed, with mean and standard deviation over seeds.

>>> spread([71.0, 72.0, 73.0])
Spread(mean=72.0, std=1.0, count=3)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from attention_transfer.errors import InputError
from attention_transfer.report.groups import MeasuredRun, grouped, tested_images
from attention_transfer.runs import RecordedRun


@dataclass(frozen=True)
class Spread:
    """A mean over runs.

    Args:
        mean: in the unit of what is averaged.
        std: sample standard deviation (n − 1); None for a single run.
        count: how many runs, at least 1.
    """

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class Group:
    """Finished runs that differ only in their seed.

    Args:
        name: methods, and whatever else sets the group apart from the others.
        seeds: ascending.
        paths: run folders, in the order of the seeds.
        last_epoch: test top-1 in percent after the last epoch.
        best_on_validation: test top-1 in percent at the first epoch with the best validation top-1; None where a run
            had no validation images.
        best_on_test: best test top-1 in percent of any epoch. It selects on the test images and is therefore too good.
        unseen: top-1 in percent after the last epoch on the test images of classes without training images; None
            where a run was trained on all classes.
        difference: `last_epoch` minus that of the first group, in points, paired by seed; None in the first group and
            where no seed is common.
        wall_seconds: of the training steps of a run; set-up, evaluation and files are not in it.
        epochs: distinct numbers of epochs.
        samples_seen: distinct numbers of training images seen, repetitions included.
        student_parameters: of the bare student.
        test_count: distinct numbers of test images.
        hardware: distinct descriptions.
        tested: what these images are, in words.
    """

    name: str
    seeds: tuple[int, ...]
    paths: tuple[str, ...]
    last_epoch: Spread | None
    best_on_validation: Spread | None
    best_on_test: Spread | None
    unseen: Spread | None
    difference: Spread | None
    wall_seconds: Spread | None
    epochs: tuple[int, ...]
    samples_seen: tuple[int, ...]
    student_parameters: int | None
    test_count: tuple[int, ...]
    hardware: tuple[str, ...]
    tested: str = "test images"


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher as the runs measured it; `top1` in percent on the test images."""

    name: str
    top1: float


@dataclass(frozen=True)
class Unfinished:
    """A run that is left out of every mean because it has not ended."""

    path: str
    name: str
    seed: int
    epochs: int
    planned_epochs: int | None


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, those without a method first; `warnings` say what is not comparable."""

    teachers: tuple[Teacher, ...]
    groups: tuple[Group, ...]
    unfinished: tuple[Unfinished, ...]
    warnings: tuple[str, ...]


def compare(runs: Iterable[RecordedRun]) -> Comparison:
    """Group runs that differ only in their seed and average each group.

    Raises:
        ValueError: there are no runs.
    """
    read = [MeasuredRun.read(run) for run in runs]
    if not read:
        raise InputError("there are no runs to compare; give run folders, or folders that hold some")
    members = grouped(read)
    warnings: list[str] = []
    groups: list[Group] = []
    first: list[MeasuredRun] = []
    for name, group in members.items():
        finished = _one_per_seed(name, [run for run in group if run.summary is not None], warnings)
        if finished:
            groups.append(_summarise(name, finished, first))
            first = first or finished
    unfinished = tuple(
        Unfinished(run.path, name, run.seed, len(run.rows), run.experiment.get("training", {}).get("epochs"))
        for name, group in members.items()
        for run in group
        if run.summary is None
    )
    return Comparison(_teachers(read), tuple(groups), unfinished, (*warnings, *_incomparable(groups)))


def _one_per_seed(name: str, runs: Sequence[MeasuredRun], warnings: list[str]) -> list[MeasuredRun]:
    by_seed: dict[int, MeasuredRun] = {}
    for run in runs:
        if run.seed in by_seed:
            warnings.append(
                f"{name} has seed {run.seed} twice; {run.path} is left out in favour of {by_seed[run.seed].path}."
            )
        by_seed.setdefault(run.seed, run)
    return list(by_seed.values())


def _summarise(name: str, runs: Sequence[MeasuredRun], first: Sequence[MeasuredRun]) -> Group:
    summaries = [run.summary or {} for run in runs]
    reference = {run.seed: run.last_epoch() for run in first}
    pairs = [(run.last_epoch(), reference.get(run.seed)) for run in runs]
    differences = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    tests = [row["test"] for run in runs for row in run.rows if row.get("test")]
    return Group(
        name=name,
        seeds=tuple(run.seed for run in runs),
        paths=tuple(run.path for run in runs),
        last_epoch=spread([run.last_epoch() for run in runs]),
        best_on_validation=spread([run.best_on_validation() for run in runs]),
        best_on_test=spread([run.best_on_test() for run in runs]),
        unseen=spread([run.last_epoch("unseen") for run in runs]),
        difference=spread(differences),
        wall_seconds=spread([summary.get("wall_seconds") for summary in summaries]),
        epochs=_distinct(summary.get("epochs") for summary in summaries),
        samples_seen=_distinct(summary.get("samples_seen") for summary in summaries),
        student_parameters=summaries[0].get("student_parameters"),
        test_count=_distinct(test.get("count") for test in tests),
        hardware=tuple(dict.fromkeys(hardware for run in runs for hardware in run.hardware)),
        tested=tested_images(runs),
    )


def spread(values: Sequence[float | None]) -> Spread | None:
    """Of values that all exist; None otherwise, since a mean over some of the seeds would mislead."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Spread(mean(known), stdev(known) if len(known) > 1 else None, len(known))


def _distinct(values: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(sorted({value for value in values if value is not None}))


def _teachers(runs: Sequence[MeasuredRun]) -> tuple[Teacher, ...]:
    found: dict[Teacher, None] = {}
    for run in runs:
        top1 = (((run.summary or {}).get("teacher") or {}).get("test") or {}).get("top1")
        if top1 is not None:
            found[Teacher(str(run.experiment.get("teacher")), top1)] = None
    return tuple(found)


def _incomparable(groups: Sequence[Group]) -> list[str]:
    warnings: list[str] = []
    if len({group.seeds for group in groups}) > 1:
        each = "; ".join(f"{group.name}: {', '.join(map(str, group.seeds))}" for group in groups)
        warnings.append(f"Not comparable as means: the groups have different seeds ({each}); differences are paired.")
    if len({(group.epochs, group.samples_seen) for group in groups}) > 1 or any(
        len(group.samples_seen) > 1 for group in groups
    ):
        warnings.append("Not comparable: the budgets (epochs or samples seen) differ.")
    if len({count for group in groups for count in group.test_count}) > 1:
        warnings.append("Not comparable: the test sets have different sizes.")
    if len({group.hardware for group in groups}) > 1 or any(len(group.hardware) > 1 for group in groups):
        warnings.append("Wall times are not comparable: the hardware, or the use of a teacher cache, differs.")
    return warnings
