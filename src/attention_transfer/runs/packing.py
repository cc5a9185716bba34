"""Writing a table of runs: what the files of finished run folders hold, a line for each run.

>>> from tempfile import TemporaryDirectory
>>> from attention_transfer.runs.search import named_runs
>>> with TemporaryDirectory() as folder:
...     with RunFolder.create_or_resume(f"{folder}/kd-seed0", {"recipe": "mine", "seed": 0}) as run:
...         run.write_summary({"epochs": 3})
...     write_packed(Path(folder, "runs.jsonl"), packed(named_runs([f"{folder}/kd-seed0"])))
...     [(each.name, each.summary["epochs"]) for each in read_packed(Path(folder, "runs.jsonl"))]
[('kd-seed0', 3)]
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attention_transfer.errors import InputError
from attention_transfer.files.atomic import write_whole
from attention_transfer.runs.folder import METRICS, RunFolder, is_run
from attention_transfer.runs.packed import (
    FIELDS,
    LARGEST_TABLE,
    SUFFIX,
    check_findings,
    check_name,
    is_packed,
    name_parts,
    read_packed,
)
from attention_transfer.runs.recorded import RecordedRun
from attention_transfer.runs.search import FoundRun

_SHOWN = 5  # names in a message


def packed(runs: Sequence[FoundRun]) -> bytes:
    """The table of some finished runs: sorted by name, the same bytes for the same runs.

    Args:
        runs: each with the name that it has there.

    Raises:
        ValueError: a run is not finished, its files cannot be read, or two have the same name.
    """
    unfinished = [str(each.run.path) for each in runs if not each.run.finished]
    if unfinished:
        raise InputError(
            f"{_some(unfinished)} {'is' if len(unfinished) == 1 else 'are'} not finished, and a table holds only "
            "finished runs: train them to their end, or leave them out"
        )
    names = Counter(each.name for each in runs)
    for name, count in names.items():
        if count > 1:
            raise InputError(f"{count} runs would be called {name!r}: give the folder that holds them all")
    lines = [_line(each.name, each.run) for each in sorted(runs, key=lambda each: name_parts(each.name))]
    content = b"".join(lines)
    if len(content) > LARGEST_TABLE:
        raise InputError(f"these runs have {len(content):,} bytes, and a table at most {LARGEST_TABLE:,}: make several")
    return content


def check_table(file: Path, runs: Sequence[FoundRun]) -> None:
    """Refuse a file that no table of these runs can be written to.

    Args:
        file: that is going to be written.
        runs: that will be in it.

    Raises:
        ValueError: for a name that no table has, a file that is something else, and a table whose runs would be lost.
    """
    if file.suffix != SUFFIX or file.name == METRICS or file.name.startswith("."):
        raise InputError(f"{file} is no name of a table of runs: give one that ends in {SUFFIX}, such as runs{SUFFIX}")
    if is_run(file.parent):
        raise InputError(f"{file} would lie in a run folder: put it beside the run folders")
    if not file.exists() and not file.is_symlink():
        return
    if not is_packed(file):
        raise InputError(f"{file} is there already, and is no table of runs: give another name")
    lost = [run.name for run in read_packed(file) if run.name not in {each.name for each in runs}]
    if lost:
        raise InputError(
            f"{file} holds {len(lost)} runs that would be lost ({_some(lost)}): give {file} too, or another name"
        )


def write_packed(file: Path, content: bytes) -> None:
    """Write a table, whole or not at all."""
    write_whole(file, content)


def left_beside(runs: Sequence[FoundRun]) -> dict[str, int]:
    """What run folders hold besides and no table does, such as weights: how many have each file or folder."""
    return dict(Counter(name for each in runs if isinstance(each.run, RunFolder) for name in each.run.other_files()))


def _line(name: str, run: RecordedRun) -> bytes:
    check_name(name, str(run.path))
    findings = run.read_findings()
    check_findings(findings, str(run.path))
    values = (name, run.experiment, run.read_metrics(), run.summary, run.environment, findings)
    try:
        text = json.dumps(dict(zip(FIELDS, values, strict=True)), ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"
    except RecursionError as error:
        raise InputError(f"{run.path} holds objects that are nested too deep to be written") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{run.path} holds half a character, which no text in UTF-8 can: {error.reason}") from error


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
