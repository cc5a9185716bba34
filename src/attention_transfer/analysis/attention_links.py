"""Trained attention links of a run, at its end and at its snapshots.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as name:
...     links_of_run(RunFolder.create_or_resume(f"{name}/run", {"recipe": "mine"}))
Traceback (most recent call last):
    ...
attention_transfer.methods...LinksError: ...run has not reached its end: give the folder of a ...
"""

from pathlib import Path

from attention_transfer.methods.attention_links.extraction import TrainedLinks, trained_links
from attention_transfer.methods.attention_links.selection import LinksError
from attention_transfer.models.weight_files import read_tensors
from attention_transfer.runs import PARTS_WEIGHTS, RunFolder


def links_of_run(run: RunFolder, name: str = "attention-links") -> TrainedLinks:
    """The trained links of a finished run.

    Args:
        run: a finished run.
        name: name of the method in it.

    Raises:
        LinksError: it learned none, or has not reached its end.
    """
    if run.parts is None:
        why = "has learned nothing beside its student" if run.finished else "has not reached its end"
        raise LinksError(f"{run.path} {why}: give the folder of a finished run of attention-links")
    return _read(run.parts, name)


def links_along_training(run: RunFolder, name: str = "attention-links") -> dict[str, TrainedLinks]:
    """The trained links at each snapshot of a run and at its end, by a title for each.

    Args:
        run: a finished run with snapshots.
        name: name of the method in it.

    Raises:
        LinksError: it kept none.
    """
    kept = {epoch: folder / PARTS_WEIGHTS for epoch, folder in run.snapshots.items()}
    kept = {epoch: path for epoch, path in kept.items() if path.exists()}
    if not kept:
        raise LinksError(f"{run.path} kept no snapshots: train with --snapshot-epochs, such as 0 1 5 20")
    moments = {f"epoch {epoch}": _read(path, name) for epoch, path in kept.items()}
    end = None if run.summary is None else run.summary.get("epochs")
    return moments if end in kept else moments | {f"epoch {end}": links_of_run(run, name)}


def _read(path: Path, name: str) -> TrainedLinks:
    try:
        return trained_links(read_tensors(path), name)
    except LinksError as error:
        raise LinksError(f"{path.parent}: {error}") from error
