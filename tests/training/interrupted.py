"""A run that was interrupted, and checkpoints as somebody else could write them."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from tests.commands.hostile import images as four_classes

from attention_transfer.commands.train import parse
from attention_transfer.recipes import RECIPES
from attention_transfer.runs import RunFolder
from attention_transfer.training.checkpoint_files import CONTENT, TENSORS
from attention_transfer.training.checkpoint_tree import taken_apart
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter


class Killer(Reporter):
    """Ends a training after some steps of its second epoch."""

    after = 3

    def steps(self, items: Iterable[Any], total: int, done: int, title: str) -> Iterator[Any]:
        del total, done
        for count, item in enumerate(items):
            if title.startswith("epoch 2") and count == self.after:
                raise KeyboardInterrupt
            yield item


def command(folder: Path) -> list[str]:
    """A training of a second, with two checkpoints in each epoch of four steps."""
    words = "train digits --student resnet8 --methods --epochs 2 --batch-size 4 --threads 1 --device cpu"
    words += " --ema-decay 0.5 --checkpoint-every-steps 2 --data"
    return [*words.split(), f"npz:{four_classes(folder / 'images')}", "--run-folder", str(folder / "run")]


def interrupted(folder: Path) -> Path:
    """Starts the training of `command` and ends it after three steps of its second epoch; gives the folder back."""
    experiment, place = parse(RECIPES["digits"](), command(folder)[2:])
    with pytest.raises(KeyboardInterrupt):
        fit_experiment(experiment, place, Killer(silent=True))
    assert not RunFolder(place).finished
    return folder


NAMES = {"epoch": 1, "first_batch": 2}


def resealed(checkpoint: Path, state: Any) -> None:
    """Puts a state into a checkpoint whose files are right in every other way."""
    content, tensors = taken_apart({"it": state})
    safetensors.torch.save_file(tensors, checkpoint / TENSORS)
    size = (checkpoint / TENSORS).stat().st_size
    digest = hashlib.sha256((checkpoint / TENSORS).read_bytes()).hexdigest()
    seal(checkpoint, {"format": 1, "tensors": {"bytes": size, "sha256": digest}, "state": content["it"]})


def seal(checkpoint: Path, body: dict[str, Any]) -> None:
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (checkpoint / CONTENT).write_text(json.dumps(body | {"checksum": checksum}))
