"""Search for runs: run folders and tables of runs, at and below the paths that a user names.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     for name in ("kd_seed0", "kd_seed1", "at_seed0"):
...         RunFolder.create_or_resume(f"{folder}/{name}", {"recipe": name}).close()
...     [found.name for found in named_runs([f"{folder}#kd_*"])], len(find_runs([folder]))
(['kd_seed0', 'kd_seed1'], 3)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from attention_transfer.errors import InputError
from attention_transfer.runs.folder import EXPERIMENT, NotARunError, RunFolder, is_run
from attention_transfer.runs.packed import SUFFIX, name_parts, read_packed, tables_in
from attention_transfer.runs.recorded import RecordedRun, same_run

_CHOOSES = "#"
# Levels: a command finds one run in a table up to two folders above it (TABLE/PART/RUN).
_UP = 2


@dataclass(frozen=True)
class FoundRun:
    """A run with what it is called.

    Args:
        name: relative to the folder, or the folder of the table, that the user named.
        run: itself.
    """

    name: str
    run: RecordedRun


def find_runs(paths: Iterable[str | Path]) -> list[RecordedRun]:
    """All runs at and below some paths, each once, in the order of the paths and then by name.

    Args:
        paths: run folders, tables of runs, or folders that hold some at any depth. `PATH#PATTERN` chooses those whose
            names below it match, as a shell would: `runs.jsonl#kd_*`.

    Raises:
        NotARunError: a path does not exist or holds no run, or a pattern matches none.
        ValueError: a table is damaged, or holds another run than the folder of that name beside it.
    """
    return [found.run for found in named_runs(paths)]


def named_runs(paths: Iterable[str | Path]) -> list[FoundRun]:
    """The same, with what each run is called by the first path that leads to it."""
    found: dict[Path, FoundRun] = {}
    for given in paths:
        path, pattern = _split(Path(given))
        runs = _runs_at(path)
        if pattern is not None:
            chosen = [each for each in runs if _matches(each.name, pattern)]
            if not chosen:
                raise NotARunError(f"{path} holds no run called {pattern!r}; it holds {_some(runs)}")
            runs = chosen
        for each in runs:
            _add(found, each)
    return list(found.values())


def recorded_run(path: str | Path) -> RecordedRun | None:
    """The run of a folder, or of a table of runs beside it that holds one of that name; None where there is neither.

    Raises:
        ValueError: a table beside it is damaged, or two hold different runs of that name.
    """
    path = Path(path)
    return RunFolder(path) if is_run(path) else packed_run(path)


def packed_run(path: Path) -> RecordedRun | None:
    """The run that a table holds instead of a folder: a table in the parent folder, or in the one above.

    Raises:
        ValueError: as `recorded_run` says.
    """
    found: dict[Path, FoundRun] = {}
    folder = path
    for _ in range(_UP):
        if folder == folder.parent or folder.name in ("", ".."):
            break
        folder = folder.parent
        name = path.relative_to(folder).as_posix()
        for table in tables_in(folder):
            for run in read_packed(table):
                if run.name == name:
                    _add(found, FoundRun(name, run))
    return next((each.run for each in found.values()), None)


def _add(found: dict[Path, FoundRun], new: FoundRun) -> None:
    """Keep a run, once; of a folder and a line of a table that hold the same, the folder, which may have weights."""
    key = new.run.path.resolve()
    if key not in found:
        found[key] = new
        return
    known = found[key]
    folders = [each for each in (known, new) if isinstance(each.run, RunFolder)]
    if len(folders) > 1:
        return
    if not same_run(known.run, new.run):
        raise InputError(
            f"two records of {new.run.path} differ, in two tables of runs or in a table and its run folder: delete or "
            "rename one of them"
        )
    found[key] = FoundRun(known.name, (folders or [known])[0].run)


def _runs_at(path: Path) -> list[FoundRun]:
    """Runs at and below a path, sorted by their names below it."""
    if path.is_file() and path.suffix == SUFFIX:
        return [FoundRun(run.name, run) for run in read_packed(path)]
    if not path.is_dir():
        raise NotARunError(f"{path} is not a folder; give a run folder, a folder of runs, or a table of runs (.jsonl)")
    if is_run(path):
        return [FoundRun(path.resolve().name, RunFolder(path))]
    runs = [FoundRun(run.path.relative_to(path).as_posix(), run) for run in _below(path)]
    if not runs:
        raise NotARunError(f"{path} holds no run: no {EXPERIMENT} at or below it, and no table of runs")
    return sorted(runs, key=lambda each: name_parts(each.name))


def _below(path: Path) -> Iterator[RecordedRun]:
    if is_run(path):
        yield RunFolder(path)
        return
    for table in tables_in(path):
        yield from read_packed(table)
    for below in sorted(path.iterdir()):
        # Links are not followed: one to a parent would never end, others would count runs twice.
        if below.is_dir() and not below.is_symlink():
            yield from _below(below)


def _split(path: Path) -> tuple[Path, str | None]:
    """A path, and which runs of it are wanted; what is really called so is taken as it is."""
    text = path.as_posix()
    if _CHOOSES not in text or path.exists():
        return path, None
    start = len(text)
    # From the right: names of folders may hold the sign themselves.
    while (start := text.rfind(_CHOOSES, 0, start)) > 0:
        if Path(text[:start]).exists():
            return Path(text[:start]), text[start + 1 :]
    return path, None


def _matches(name: str, pattern: str) -> bool:
    """Whether a run, or a folder that it lies in, is called so; `*` is never a `/`."""
    parts, wanted = name_parts(name), name_parts(pattern.rstrip("/"))
    return name == pattern or (
        len(wanted) <= len(parts) and all(fnmatchcase(part, each) for part, each in zip(parts, wanted, strict=False))
    )


def _some(runs: list[FoundRun]) -> str:
    shown = ", ".join(each.name for each in runs[:5])
    return shown + (f" and {len(runs) - 5} more" if len(runs) > 5 else "")
