"""Groups of runs that differ only in their seed, and their names.

>>> method_name({"methods": [{"name": "at"}, {"name": "kd"}]}), method_name({"methods": []})
('KD+AT', 'CE')
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Self, cast

from attention_transfer.errors import InputError
from attention_transfer.runs import RecordedRun, flatten

IGNORED = (
    "seed",
    "recipe",
    "data.root",
    "data.num_workers",
    "training.checkpoint_every_steps",
    "training.snapshot_epochs",
)
"""Fields of an experiment that cannot change its result; the seed is what a group averages over.

Device, threads and precision are not among them: they change rounding and wall time.
"""

_LONG = 20  # letters that several names must begin with before it is left out


@dataclass(frozen=True)
class MeasuredRun:
    """What is read from one run folder.

    Args:
        path: of the folder.
        experiment: as the run was given it.
        settings: its leaves by dotted path, without those in `IGNORED`; equal for runs of one group.
        rows: metrics by epoch.
        summary: None for a run that has not finished.
        hardware: distinct descriptions of the machines that it ran on.
    """

    path: str
    experiment: dict[str, Any]
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any] | None
    hardware: tuple[str, ...]

    @classmethod
    def read(cls, run: RecordedRun) -> Self:
        """Everything that is compared, from disk. A setting of None is left out: older runs may not have it yet."""
        experiment = run.experiment
        if "seed" not in experiment:
            raise InputError(f"the experiment of {run.path} has no seed: it is none that `train` wrote")
        settings = {
            key: value
            for key, value in flatten(_by_method(experiment)).items()
            if value is not None and not any(key == name or key.startswith(f"{name}.") for name in IGNORED)
        }
        environment = run.environment or {}
        starts = [*environment.get("earlier", []), environment]
        hardware = tuple(dict.fromkeys(_machine(start) for start in starts if start.get("hardware")))
        return cls(str(run.path), experiment, settings, run.read_metrics(), run.summary, hardware)

    @property
    def seed(self) -> int:
        """What its group averages over."""
        return int(self.experiment["seed"])

    def series(self, split: str, quantity: str) -> dict[int, float]:
        """A measured quantity by epoch, where it was measured; `split` is `train`, `validation`, `test` or `unseen`."""
        measured = {int(row["epoch"]): row.get(split) or {} for row in self.rows}
        return {epoch: float(values[quantity]) for epoch, values in measured.items() if quantity in values}

    def last_epoch(self, split: str = "test") -> float | None:
        """Top-1 in percent when last measured; None where the split never was."""
        tested = self.series(split, "top1")
        return tested[max(tested)] if tested else None

    def best_on_test(self) -> float | None:
        """Best test top-1 in percent of any epoch."""
        return max(self.series("test", "top1").values(), default=None)

    def best_on_validation(self) -> float | None:
        """Test top-1 in percent at the first epoch with the best validation top-1; None without validation."""
        test, validation = self.series("test", "top1"), self.series("validation", "top1")
        both = [epoch for epoch in validation if epoch in test]
        return test[max(both, key=lambda epoch: validation[epoch])] if both else None


def tested_images(runs: Iterable[MeasuredRun]) -> str:
    """What was measured on, in words: test images, or those of the part that served as such."""
    names = {row["test"].get("images_of", "test") for run in runs for row in run.rows if row.get("test")}
    return f"images of {' and '.join(sorted(names))}" if names - {"test"} else "test images"


def grouped(runs: Iterable[MeasuredRun]) -> dict[str, list[MeasuredRun]]:
    """Runs that differ only in their seed, by name, in the order of the seeds; groups without a method come first."""
    by_settings: dict[str, list[MeasuredRun]] = {}
    for run in sorted(runs, key=lambda run: bool(run.experiment.get("methods"))):
        by_settings.setdefault(repr(sorted(run.settings.items())), []).append(run)
    members = [sorted(group, key=lambda run: run.seed) for group in by_settings.values()]
    return dict(zip(_names([group[0] for group in members]), members, strict=True))


def _names(runs: Sequence[MeasuredRun]) -> list[str]:
    """Name groups, each by one of its runs, after what sets them apart.

    That is their methods, then any other setting that differs among all groups, then settings of the methods, the task
    weight or the teacher where groups of the same methods differ in them.
    """
    methods = [method_name(run.experiment) for run in runs]
    teachers = {run.settings.get("teacher") for run in runs} - {None}
    everywhere = {
        key for key in _differing(runs) if not key.startswith("methods") and key not in ("task_weight", "teacher")
    } | ({"teacher"} if len(teachers) > 1 else set())
    # Long names that begin alike, such as those of one network with and without weights behind it.
    starts = {key: _common_start([str(run.settings.get(key)) for run in runs]) for key in ("student", "teacher")}
    names: list[str] = []
    for run, method in zip(runs, methods, strict=True):
        alike = [other for other, its in zip(runs, methods, strict=True) if its == method]
        shown = everywhere | _differing(alike)
        keys = [key for key, value in run.settings.items() if key in shown and (key, value) != ("teacher", None)]
        short = [key.rpartition(".")[2] for key in keys]
        labels = [name if short.count(name) == 1 else key for key, name in zip(keys, short, strict=True)]
        values = [
            _shown(label, str(run.settings[key]), starts.get(key, 0)) for key, label in zip(keys, labels, strict=True)
        ]
        names.append(", ".join([method, *(value for value in values if value)]))
    return names


def _common_start(values: Sequence[str]) -> int:
    """Length of what all values begin with, where leaving it out makes them much shorter."""
    length = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*values, strict=False)))
    return length if length > _LONG else 0


def _shown(label: str, value: str, start: int) -> str:
    """A setting without what it shares with all others; nothing where it is only that."""
    if not start:
        return f"{label}={value}"
    return f"{label}=…{value[start:]}" if value[start:] else ""


def _by_method(experiment: dict[str, Any]) -> dict[str, Any]:
    """The experiment with its methods by name, so that their order makes no difference."""
    methods: dict[str, Any] = {}
    for method in cast(list[dict[str, Any]], experiment.get("methods", [])):
        name = str(method["name"])
        while name in methods:
            name += "'"
        methods[name] = method
    return experiment | {"methods": methods}


def _machine(start: dict[str, Any]) -> str:
    """What decides how long a run takes, beside its settings."""
    hardware = start["hardware"]
    threads = hardware.get("threads")
    parts = [
        hardware.get("processor"),
        threads and f"{threads} thread{'' if threads == 1 else 's'}",
        hardware.get("device"),
        start.get("teacher_cache") and "teacher read from a cache where it stood there",
    ]
    return ", ".join(str(part) for part in parts if part)


def method_name(experiment: dict[str, Any]) -> str:
    """`pre-training`, `CE`, `KD`, `AT`, `KD+AT`: soft targets first, then by alphabet; order makes no difference."""
    if experiment.get("pretraining"):
        return "pre-training"
    names = sorted(
        (str(method["name"]) for method in cast(list[dict[str, Any]], experiment.get("methods", []))),
        key=lambda name: (name != "kd", name),
    )
    without_labels = " without labels" if names and experiment.get("task_weight") == 0 else ""
    # Acronyms are written large, words are not.
    shown = [name if "-" in name else name.upper() for name in names]
    return ("+".join(shown) or "CE") + without_labels


def _differing(runs: Sequence[MeasuredRun]) -> set[str]:
    keys = {key for run in runs for key in run.settings}
    return {key for key in keys if len({repr(run.settings.get(key, "absent")) for run in runs}) > 1}
