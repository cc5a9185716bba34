"""Tables of runs: many finished runs in one text file, a line of JSON for each, read as run folders are.

A line begins with `{"run": NAME` and holds what the files of a run folder hold: `experiment`, `metrics`, `summary`,
`environment` and `findings`. Weights are not in it.

>>> check_name("cifar100/kd-seed0", "line 1 of runs.jsonl")
'cifar100/kd-seed0'
>>> check_name("../elsewhere", "line 1 of runs.jsonl")
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: line 1 of runs.jsonl calls a run '../elsewhere', and names of runs are ...
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, cast

from attention_transfer.errors import InputError
from attention_transfer.files.json_fields import Fields, Json, is_list, is_object, is_text
from attention_transfer.files.untrusted import parse_object, read_regular
from attention_transfer.runs.shapes import check_environment, check_experiment, check_row, check_summary

SUFFIX = ".jsonl"
LARGEST_TABLE = 256 * 2**20
"""Bytes; that is a hundred thousand runs."""
FIELDS = ("run", "experiment", "metrics", "summary", "environment", "findings")

# A file of metrics has the same suffix, and others may have it.
_FIRST_LINE = re.compile(rb'\s*\{\s*"run"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*"experiment"\s*:\s*\{')
_READ_FIRST = 8192  # bytes, in which the name of a run and the beginning of its experiment stand
_SHOWN = 80  # characters of a name in a message


@dataclass(frozen=True)
class PackedRun:
    """One run of a table, read-only.

    Args:
        file: of the table.
        name: of the run, relative to the folder of the file, with `/` between its parts.
        line: as it is there, checked.
    """

    file: Path
    name: str
    line: bytes

    @property
    def path(self) -> Path:
        """Where its run folder would be; weights that are kept of it lie there."""
        return self.file.parent / self.name

    @property
    def experiment(self) -> Json:
        """What determines the run, as it was given."""
        return self._record()["experiment"]

    @property
    def environment(self) -> Json | None:
        """Versions, hardware and command of its starts."""
        return self._record().get("environment")

    @property
    def summary(self) -> Json | None:
        """What the run came to."""
        return self._record()["summary"]

    @property
    def finished(self) -> bool:
        """True: a table holds only finished runs."""
        return True

    def read_metrics(self) -> list[Json]:
        """Metrics by epoch, oldest first."""
        return self._record()["metrics"]

    def read_findings(self) -> dict[str, Json]:
        """What analyses found and kept as JSON, by name."""
        return self._record().get("findings") or {}

    def _record(self) -> Json:
        """The line anew, so that nobody changes what others read."""
        return parse_object(self.line, f"{self.name} in {self.file}")


def read_packed(file: Path) -> tuple[PackedRun, ...]:
    """The runs of a table, by name.

    Args:
        file: as `compare --pack` wrote it.

    Raises:
        ValueError: it cannot be read, is no table of runs, or a line of it holds something else than a run; naming the
            line.
    """
    try:
        state = file.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    # The state of the file is the key of the cache, so that a table that changed is read anew.
    return _read(file, state.st_mtime_ns, state.st_size, state.st_ino)


def is_packed(file: Path) -> bool:
    """Whether a file looks like a table of runs: by its suffix, and how its first line begins."""
    try:
        if file.suffix != SUFFIX or not file.is_file():
            return False
        with file.open("rb") as opened:
            return _FIRST_LINE.match(opened.read(_READ_FIRST)) is not None
    except OSError:
        return False


def tables_in(folder: Path) -> list[Path]:
    """Tables of runs that lie in a folder itself, by name; links to others are not followed."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(SUFFIX) and not entry.is_symlink()]
    except (OSError, ValueError):
        return []
    return [folder / name for name in sorted(names) if not name.startswith(".") and is_packed(folder / name)]


def name_parts(name: str) -> list[str]:
    """What runs are sorted by: the order of a walk through folders."""
    return name.split("/")


def check_name(name: str, source: str) -> str:
    """The same, if a run may be called that: it leads nowhere but below the folder of the table.

    Args:
        name: with `/` between its parts.
        source: where it is from, for messages.

    Raises:
        ValueError: it leads elsewhere, or is no path that could be written.
    """
    pure = PurePosixPath(name)
    # Backslash and colon lead elsewhere on Windows, where tables written on Linux are read too.
    leads_out = name.startswith(("/", "~")) or ".." in pure.parts or re.search(r"[\\:]", name) is not None
    if leads_out or not pure.parts or str(pure) != name or not is_text(name):
        raise InputError(
            f"{source} calls a run {name[:_SHOWN]!r}, and names of runs are relative paths with / between their parts: "
            "nothing of it is read"
        )
    return name


def check_findings(findings: object, source: str) -> None:
    """Refuse findings of a run that are no JSON objects under the names of files.

    Args:
        findings: as JSON holds them.
        source: where they are from, for messages.

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(findings, dict):
        raise InputError(
            f"'findings' of {source} must be an object with names and values: the file was changed by hand"
        )
    for name, content in cast("dict[str, Any]", findings).items():
        if not name or name.startswith(".") or re.search(r"[/\\]", name) or not is_text(name):
            raise InputError(f"{source} calls a finding {name[:_SHOWN]!r}, and that is no plain file name")
        if not is_object(content):
            raise InputError(f"the finding {name[:_SHOWN]!r} of {source} is no object with names and values")


# Commands look up many runs of one table; a table that was written anew is read anew.
@lru_cache(maxsize=32)
def _read(file: Path, *state: int) -> tuple[PackedRun, ...]:
    del state
    content = read_regular(file, LARGEST_TABLE)
    if not content.strip():
        raise InputError(f"{file} holds no run: it is empty, and a table of runs has a line for each")
    found: dict[str, tuple[int, PackedRun]] = {}
    for number, line in _lines(content):
        source = f"line {number} of {file}"
        run = _run(file, line, source)
        if run.name in found:
            raise InputError(f"{source} holds the run {run.name!r}, which line {found[run.name][0]} holds already")
        found[run.name] = (number, run)
    return tuple(found[name][1] for name in sorted(found, key=name_parts))


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; one that is empty counts unless it is the end of the file."""
    start, number = 0, 1
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        yield number, content[start:end]
        start, number = end + 1, number + 1


def _run(file: Path, line: bytes, source: str) -> PackedRun:
    record = parse_object(line, source)
    fields = Fields(record, source)
    name = fields.text("run", needed=True)
    assert name is not None
    check_name(name, source)
    strangers = [key for key in record if key not in FIELDS]
    if strangers:
        raise InputError(
            f"{source} holds {strangers[0][:_SHOWN]!r}, and a run has {', '.join(FIELDS[1:])}: it was changed by hand, "
            "or is of another version"
        )
    checks = {"experiment": check_experiment, "summary": check_summary, "environment": check_environment}
    for key, check in checks.items():
        inner = fields.inner(key, needed=key != "environment")
        if inner is not None:
            check(cast("Json", inner.values), f"{key!r} in {source}")
    rows = fields.take("metrics", "a list of objects", lambda value: is_list(value, is_object), needed=True)
    for number, row in enumerate(rows, start=1):
        check_row(row, f"row {number} of 'metrics' in {source}")
    check_findings(record.get("findings", {}), source)
    return PackedRun(file, name, line)
