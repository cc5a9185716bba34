"""Run folder on disk: experiment, metrics, checkpoints, snapshots, summary and findings.

This file alone knows the file names. Standard library only. Metrics are one JSON line per epoch; every other file is
written whole or not at all.

>>> from attention_transfer.runs import find_runs, recorded_run, whole_file
>>> from tempfile import TemporaryDirectory
>>> experiment = {"recipe": "mine", "student": "resnet8", "seed": 0, "training": {"epochs": 1}}
>>> folder = TemporaryDirectory()
>>> with RunFolder.create_or_resume(f"{folder.name}/runs/seed0", experiment) as run:
...     run.append_metrics({"epoch": 1, "test": {"top1": 71.5}})
...     run.write_summary({"epochs": 1})
>>> is_run(f"{folder.name}/runs/seed0")
True
>>> [(run.finished, run.read_metrics()[-1]["test"]) for run in find_runs([f"{folder.name}/runs"])]
[(True, {'top1': 71.5})]
>>> recorded_run(f"{folder.name}/runs/seed0").experiment["student"]
'resnet8'

The same settings resume a run, others are refused with the fields that differ:

>>> differing_fields(experiment, experiment | {"training": {"epochs": 2}})
{'training.epochs': (1, 2)}
>>> flatten(experiment)["training.epochs"]
1
>>> RunFolder.create_or_resume(f"{folder.name}/runs/seed0", experiment | {"seed": 1})
Traceback (most recent call last):
    ...
attention_transfer.runs.folder.RunExistsError: ... seed is 0 there, 1 now. Choose another folder ...
>>> RunFolder(f"{folder.name}/runs")
Traceback (most recent call last):
    ...
attention_transfer.runs.folder.NotARunError: ... is no run folder: it has no experiment.json; give the folder ...

Files and folders of your own appear whole or not at all:

>>> make_folder(Path(f"{folder.name}/figures"))
>>> write_whole(f"{folder.name}/figures/caption.txt", b"Loss")
>>> with whole_file(f"{folder.name}/figures/table.md") as temporary:
...     _ = temporary.write_text("| run | top-1 |")
>>> folder.cleanup()
"""

import json
import math
import os
import re
import weakref
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from attention_transfer.errors import InputError
from attention_transfer.files.atomic import (
    TEMPORARY,
    make_folder,
    remove_leftovers,
    remove_whole,
    whole_folder,
    write_whole,
)
from attention_transfer.files.bare_student import PARTS_WEIGHTS
from attention_transfer.files.json_fields import Json
from attention_transfer.files.untrusted import parse_object, read_object, read_regular
from attention_transfer.files.writing import append, to_write
from attention_transfer.runs.json_diff import differing_fields, flatten
from attention_transfer.runs.locking import LOCK, lock
from attention_transfer.runs.renamed_settings import with_current_names
from attention_transfer.runs.shapes import SNAPSHOTS as _SNAPSHOTS
from attention_transfer.runs.shapes import (
    check_environment,
    check_experiment,
    check_row,
    check_summary,
)

EXPERIMENT = "experiment.json"
_ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
_SUMMARY = "summary.json"
_CHECKPOINTS = "checkpoints"
_SNAPSHOT = "epoch-"
_FINDINGS = "findings"


class NotARunError(InputError):
    """A path that should be a run folder, or hold some, and does not."""


class RunExistsError(InputError):
    """The folder is taken: by a run of another experiment, or by files that are no run."""


class RunFolder:
    """One training run on disk.

    Made by `create_or_resume` it may be written, and is locked until `close`, or the end of a `with` block or the
    process. Made directly it reads, and may add findings.

    Args:
        path: the folder.

    Raises:
        NotARunError: there is no run at `path`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not is_run(self.path):
            raise NotARunError(f"{path} is no run folder: it has no {EXPERIMENT}; give the folder that `train` wrote")
        self._release: weakref.finalize[Any, Any] | None = None

    @classmethod
    def create_or_resume(cls, path: str | Path, experiment: Mapping[str, Any]) -> Self:
        """Open a run for writing: a new one, or the one that the same experiment left here.

        Args:
            path: a folder that is absent, empty, or a run of the same experiment.
            experiment: everything that determines the run, as JSON.

        Raises:
            RunExistsError: the folder holds another experiment (the error names the fields) or files that are no run.
            RunLockedError: somebody else is writing the run.
            RunUnwritableError: the folder cannot be made or written.
        """
        # Through JSON and back, so that tuples and lists compare as they will when the run resumes.
        path = Path(path)
        wanted: Json = json.loads(_encode(experiment, "the experiment"))
        # Twice: before the lock is made in a folder of other files, and under it, for another process may be faster.
        _refuse_foreign(path)
        descriptor = lock(path)
        try:
            _refuse_foreign(path)
            _ = _folders(path)
            if is_run(path):
                recorded = with_current_names(read_object(path / EXPERIMENT), str(path))
                refuse_other_experiment(path, recorded, wanted)
            else:
                _write_json(path / EXPERIMENT, wanted)
            for folder in (path, *_folders(path)):
                remove_leftovers(folder)
        except BaseException:
            os.close(descriptor)
            raise
        # A finalizer, so that the lock goes with the object even where nobody calls close.
        run = cls(path)
        run._release = weakref.finalize(run, os.close, descriptor)
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write the run. Safe to call twice."""
        if self._release is not None:
            self._release()

    @property
    def experiment(self) -> Json:
        """The experiment that determines the run, as JSON."""
        path = self.path / EXPERIMENT
        return check_experiment(read_object(path), str(path))

    @property
    def environment(self) -> Json | None:
        """Versions, hardware and command of the last start; starts that differed are under `earlier`, oldest first."""
        path = self.path / _ENVIRONMENT
        return check_environment(read_object(path), str(path)) if path.exists() else None

    @property
    def summary(self) -> Json | None:
        """Results of a finished run; None if it is not finished."""
        path = self.path / _SUMMARY
        return check_summary(read_object(path), str(path)) if path.exists() else None

    @property
    def finished(self) -> bool:
        """Whether training reached its end: the summary is written last."""
        return (self.path / _SUMMARY).exists()

    @property
    def parts(self) -> Path | None:
        """Weights of the modules that methods trained beside the student (`parts` of the distiller), as safetensors.

        None if there are none, or training has not reached its end.
        """
        path = self.path / PARTS_WEIGHTS
        return path if path.exists() else None

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, from which an interrupted run resumes; it exists where the run may be written."""
        path = self.path / _CHECKPOINTS
        if self._writable:
            make_folder(path)
        return path

    @property
    def snapshots(self) -> dict[int, Path]:
        """Folders of the students saved, by number of finished epochs, ascending; each opens as a model."""
        names = [path.name for path in (self.path / _SNAPSHOTS).glob(f"{_SNAPSHOT}*")]
        epochs = sorted(
            int(found[1]) for name in names if (found := re.fullmatch(rf"{_SNAPSHOT}(0|[1-9]\d{{0,8}})", name))
        )
        return {epoch: self.path / _SNAPSHOTS / f"{_SNAPSHOT}{epoch}" for epoch in epochs}

    @contextmanager
    def new_snapshot(self, epochs: int) -> Generator[Path]:
        """A folder for the student after `epochs` finished epochs; one of `snapshots` when the block has ended."""
        self._require_lock()
        with whole_folder(self.path / _SNAPSHOTS / f"{_SNAPSHOT}{epochs}") as folder:
            yield folder

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Keep versions, hardware and command of this start; a resumed run keeps those of its earlier starts too."""
        self._require_lock()
        now: Json = json.loads(_encode(environment, _ENVIRONMENT))
        before = self.environment
        if before is not None:
            # Flat, not nested: each start beside the others, the last one on top.
            earlier: list[Json] = before.pop("earlier", [])
            starts = [*earlier, *([] if before == now else [before])]
            now |= {"earlier": starts} if starts else {}
        _write_json(self.path / _ENVIRONMENT, now)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one epoch's metrics.

        Args:
            row: has `epoch`, counted from 1.

        Raises:
            ValueError: a number is not finite, which JSON cannot hold.
        """
        self._require_lock()
        line = _encode(row, METRICS, indent=None).encode() + b"\n"
        path = to_write(self.path, METRICS)
        if path.exists() and not read_regular(path).endswith(b"\n"):
            # A process killed while it wrote leaves half a line, which must not swallow this one.
            self._write_metrics(self.read_metrics())
        append(path, line)

    def read_metrics(self) -> list[Json]:
        """Metrics by epoch, oldest first; half a line at the end, as a killed process leaves it, is not counted.

        Raises:
            ValueError: a line before the end is not JSON.
        """
        path = self.path / METRICS
        if not path.exists():
            return []
        lines = {f"line {number} of {path}": line for number, line in enumerate(read_regular(path).split(b"\n"), 1)}
        return [check_row(parse_object(line, source), source) for source, line in list(lines.items())[:-1]]

    def truncate(self, epochs: int, rows: Iterable[Json] = ()) -> None:
        """Forget metrics and snapshots after the first `epochs` epochs: a run that resumes there will write them.

        Args:
            epochs: finished ones, which are kept.
            rows: their metrics from elsewhere (a checkpoint), for epochs that the file lacks.
        """
        self._require_lock()
        # Rows of the file win over those of the checkpoint: they come later and replace equal epochs.
        kept = {int(row["epoch"]): row for row in (*rows, *self.read_metrics()) if row["epoch"] <= epochs}
        self._write_metrics([kept[epoch] for epoch in sorted(kept)])
        for epoch, folder in self.snapshots.items():
            if epoch > epochs:
                remove_whole(folder)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Declare the run finished. Written last, when everything else is there."""
        self._require_lock()
        _write_json(self.path / _SUMMARY, summary)

    def write_finding(self, name: str, finding: Mapping[str, Any] | bytes) -> Path:
        """Add what an analysis found.

        Args:
            name: file name; a mapping gets `.json` appended, bytes carry their own suffix (`maps.npz`).
            finding: JSON, or the bytes of a file.

        Returns:
            Where it was written.
        """
        if not name or name.startswith(".") or Path(name).name != name:
            raise InputError(f"a finding's name is a plain file name, got {name!r}")
        folder = to_write(self.path, _FINDINGS)
        make_folder(folder)
        content = finding if isinstance(finding, bytes) else _encode(finding, name).encode()
        path = folder / (name if isinstance(finding, bytes) else f"{name}.json")
        write_whole(path, content)
        return path

    def read_findings(self) -> dict[str, Json]:
        """What analyses found and kept as JSON, by name; files of other kinds are `other_files`.

        Raises:
            ValueError: a finding cannot be read.
        """
        return {path.stem: read_object(path) for path in sorted(self._findings()) if path.suffix == ".json"}

    def other_files(self) -> list[str]:
        """Names of files and folders in the run beside what this class reads as JSON, such as weights."""
        known = {EXPERIMENT, _ENVIRONMENT, METRICS, _SUMMARY, _FINDINGS, LOCK}
        # A slash behind folders, for people.
        names = [f"{path.name}{'/' * path.is_dir()}" for path in self.path.iterdir() if path.name not in known]
        names += [f"{_FINDINGS}/{path.name}" for path in self._findings() if path.suffix != ".json"]
        return sorted(names)

    def _findings(self) -> list[Path]:
        folder = self.path / _FINDINGS
        return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []

    @property
    def _writable(self) -> bool:
        return self._release is not None and self._release.alive

    def _require_lock(self) -> None:
        if not self._writable:
            raise InputError(f"{self.path} is open for reading only; open it with RunFolder.create_or_resume to write")

    def _write_metrics(self, rows: Iterable[Json]) -> None:
        text = "".join(_encode(row, METRICS, indent=None) + "\n" for row in rows)
        write_whole(self.path / METRICS, text.encode())


def is_run(path: str | Path) -> bool:
    """Whether a run folder is at `path`."""
    return (Path(path) / EXPERIMENT).is_file()


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunExistsError(f"{path} is a file; a run needs a folder: choose another one")
    if not path.is_dir() or is_run(path):
        return
    strangers = sorted(below.name for below in path.iterdir() if not below.name.startswith((LOCK, TEMPORARY)))
    if strangers:
        shown = ", ".join(strangers[:3]) + (", …" if len(strangers) > 3 else "")
        raise RunExistsError(f"{path} is not empty and is no run (it holds {shown}); choose a new or an empty folder")


def refuse_other_experiment(path: Path, recorded: Json, wanted: Json) -> None:
    """Refuse to take a run for one of other settings.

    Args:
        path: of it.
        recorded: its experiment.
        wanted: the one that should be there.

    Raises:
        RunExistsError: naming the fields that differ.
    """
    differing = differing_fields(recorded, wanted)
    if differing:
        listed = "; ".join(f"{field} is {there!r} there, {now!r} now" for field, (there, now) in differing.items())
        raise RunExistsError(
            f"{path} holds a run of another experiment: {listed}. Choose another folder "
            "(--run-folder), or the same settings to resume"
        )


def _encode(content: Mapping[str, Any], what: str, indent: int | None = 2) -> str:
    try:
        return json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        leaves = flatten(content).items()
        # NaN is the only value that differs from itself.
        bad = ", ".join(f"{path} = {leaf}" for path, leaf in leaves if leaf in (math.inf, -math.inf) or leaf != leaf)
        raise InputError(f"{what} holds numbers that are not finite: {bad or error}") from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, (_encode(content, path.name) + "\n").encode())


def _folders(path: Path) -> tuple[Path, ...]:
    """The folders that a run writes in, none of which may lead out of it."""
    for name in (METRICS, _FINDINGS):
        to_write(path, name)
    return to_write(path, _CHECKPOINTS), to_write(path, _SNAPSHOTS)
