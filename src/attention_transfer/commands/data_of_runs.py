"""Data set of a command that measures models: that of the runs among them, unless --data names another."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from attention_transfer.errors import InputError, printable
from attention_transfer.experiment import Data, read_data
from attention_transfer.experiment.data import Downloads
from attention_transfer.files.env_paths import expand
from attention_transfer.runs import recorded_run


def titles(names: Sequence[str]) -> list[str]:
    """The last parts of names, or the whole ones where these would not tell them apart.

    Args:
        names: of models or run folders, as a user wrote them.
    """
    short = [Path(name.rpartition("@")[2]).name or name for name in names]
    return short if len(set(short)) == len(short) else list(names)


# What decides which images a command reads, and how: of the test split, and of the others beyond that.
_OF_TEST = ("name", "root", "image_size", "test_limit", "split_seed", "decoding", "background")
_OF_OTHER_SPLITS = ("validation_fraction", "train_classes", "train_fraction", "train_limit", "train_sample")
_MOST_WORKERS = 64  # that a file of somebody else starts
_FLAGS = {"name": "--data", "root": "--data-root"}


def own_data(arguments: Sequence[str]) -> Data:
    """The data that run folders among the arguments were trained on; the usual ones where there are none.

    What the user says wins: such settings of the runs may differ. Where --data names another set than that of a run,
    only `root` and `num_workers` of the runs are kept; the other settings belong to the set that they were made for.

    Args:
        arguments: of the command, as the user wrote them; flags of `Data` among them are yet to be applied to the
            result.

    Raises:
        ValueError: the runs differ in what decides the images, and the arguments do not say what to take.
    """
    places = [expand(word) for word in arguments if not word.startswith("-")]
    recorded = [(place, run) for place in places if (run := recorded_run(place)) is not None]
    found = [place for place, _ in recorded]
    runs = [_held(read_data(run), place) for place, run in recorded]
    if not runs:
        return Data()
    name = _said(arguments, "--data")
    if name is not None and any(_comparable(run.name) != _comparable(name) for run in runs):
        # A run whose data need no root has none.
        roots = [run for run in runs if run.root is not None]
        _refuse_differences(roots, ("root",), arguments)
        return Data(name, roots[0].root if roots else None, num_workers=max(run.num_workers for run in runs))
    beyond_test = _said(arguments, "--split") not in (None, "test")
    _refuse_differences(runs, (*_OF_TEST, *(_OF_OTHER_SPLITS if beyond_test else ())), arguments)
    if name is None:
        _announce(runs[0], found[0], sys.stderr if "--json" in arguments else sys.stdout)
    return runs[0]


def downloads(arguments: Sequence[str], allow_download: bool) -> Downloads:
    """What a command may fetch: the data that its user names, and what run folders name where the user says so.

    Args:
        arguments: of the command, as the user wrote them.
        allow_download: the flag.
    """
    recorded = _said(arguments, "--data") is None and any(
        recorded_run(expand(word)) is not None for word in arguments if not word.startswith("-")
    )
    return Downloads(data=allow_download or not recorded, recorded=allow_download)


def _held(data: Data, place: str) -> Data:
    """The data that a run names, unless it is on a machine elsewhere; it starts only so many processes."""
    for named in (data.name.partition(":")[2], str(data.root or "")):
        if named.startswith(("//", "\\\\")) or "://" in named:
            raise InputError(f"{place} names data on another machine ({named!r}): give --data to choose what is read")
    return replace(data, num_workers=min(data.num_workers, _MOST_WORKERS))


def _announce(data: Data, place: str, stream: TextIO) -> None:
    """Say what a run folder names outside of itself, before it is opened."""
    if data.root is not None or ":" in data.name:
        where = data.name if data.root is None else f"{data.name} in {data.root}"
        print(printable(f"note: {place} names the data that is read: {where} (--data gives others)"), file=stream)


def for_test_images(data: Data) -> Data:
    """The same data set without training: one training image is the least that a data set can have."""
    return replace(
        data, train_limit=1, validation_fraction=0.0, train_classes=None, train_fraction=None, train_sample=None
    )


def _refuse_differences(runs: Sequence[Data], names: Sequence[str], arguments: Sequence[str]) -> None:
    values = {name: sorted({_comparable(getattr(run, name)) for run in runs}) for name in names}
    flags = {name: _FLAGS.get(name, f"--{name.replace('_', '-')}") for name in names}
    differing = [name for name in names if len(values[name]) > 1 and _said(arguments, flags[name]) is None]
    if differing:
        each = "; ".join(f"{name} is {' or '.join(values[name])}" for name in differing)
        wanted = ", ".join(flags[name] for name in differing)
        raise InputError(
            f"these runs were trained on different data ({each}): say with {wanted} what to measure all of them on"
        )


def _comparable(value: Any) -> str:
    """The same for the same value, as a place that is written with environment variables or without."""
    try:
        return expand(str(value))
    except InputError:  # a variable that is not set here: said where the place is read
        return str(value)


def _said(arguments: Sequence[str], flag: str) -> str | None:
    """The last value that is given for a flag; None where it is not given."""
    found: str | None = None
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            found = value if equals else "".join(arguments[place + 1 : place + 2])
    return found
