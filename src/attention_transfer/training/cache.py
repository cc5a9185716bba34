"""Cache of a teacher's outputs on disk, for all runs whose teacher sees the same images.

Order and augmentation are functions of seed, epoch and image alone, so runs that differ in nothing but student, methods
and their settings show their teacher the same images: only the first of them has to run it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attention_transfer.capture import Reading, Tap
from attention_transfer.distiller import Distiller
from attention_transfer.errors import InputError
from attention_transfer.experiment import Data, Experiment
from attention_transfer.files.atomic import said_where, temporary_name
from attention_transfer.files.env_paths import expand
from attention_transfer.files.writing import to_write
from attention_transfer.models.fingerprint import fingerprint
from attention_transfer.runs import RunUnwritableError, make_folder, write_whole
from attention_transfer.training.device import Arithmetic, environment
from attention_transfer.training.prepare import Prepared

_SUFFIX = ".safetensors"
# Settings that did not exist when caches were first made: they count where they are given.
_LATER = ("train_sample", "split_seed", "decoding", "background")
_ATTENTION = ("query", "key", "value", "bias", "weights")
# Relative to the largest value: what two runs of the same kernels on other machines differ by.
_SAME = {torch.bfloat16: 0.02, torch.float16: 0.005}


def remember_teacher(folder: Path, experiment: Experiment, prepared: Prepared, processes: int) -> Prepared:
    """Let a distiller read what its teacher gives from a folder where it stands there, and keep it there where not.

    Args:
        folder: for any number of teachers and data sets, each under a name that stands for all that decides what the
            teacher gives; made if it does not exist.
        experiment: that will be trained.
        prepared: its distiller and images.
        processes: that share it.

    Returns:
        The same, with a note of what is kept where, or why nothing is.

    Raises:
        ValueError: for an environment variable that is not set, or a file where the folder should be.
    """
    distiller, folder = prepared.distiller, Path(expand(str(folder)))
    if not isinstance(distiller, Distiller) or distiller.teacher is None:
        return prepared
    epochs = distiller.num_epochs(experiment.training.epochs)
    key = _key(experiment, prepared, processes)
    own = folder / hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()
    try:
        if experiment.training.compile:
            raise InputError("it is compiled together with the student")
        distiller.remember_teacher(TeacherCache(own, prepared.train.num_batches * epochs))
    except InputError as error:
        note = f"the teacher runs in every step, and {folder} is not used: {error}"
        return replace(prepared, notes=(*prepared.notes, note))
    try:
        make_folder(folder)
        make_folder(to_write(folder, own.name))
    except RunUnwritableError as error:
        raise InputError(f"--teacher-cache {folder} cannot be made: {error}") from error
    write_whole(own / "key.json", (json.dumps(key, indent=2) + "\n").encode())
    note = f"what the teacher gives is kept in {own}"
    return replace(prepared, notes=(*prepared.notes, note), teacher_cached=True)


class TeacherCache:
    """A memory of one teacher's answers; a file for each step and each thing that was read.

    The first step of a process runs the teacher whatever is there, and compares.

    Args:
        folder: for this teacher on these images.
        steps: of a whole run, to see whether it will find room.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self._steps = steps
        self._example: Reading | None = None

    def read(self, epoch: int, index: Tensor, run: Callable[[], Reading]) -> Reading:
        """Outputs of the teacher for a batch.

        Args:
            epoch: counted from 0.
            index: dataset indices of the images, shape (batch,).
            run: runs it; called where something is missing.

        Raises:
            ValueError: where what is kept is not what the teacher gives, or will not find room.
        """
        indices = index.cpu().numpy().tobytes()
        # Caches are handed on as run folders are: a link in one leads nowhere.
        folder = to_write(self.folder, f"epoch-{epoch}", hashlib.blake2b(indices, digest_size=8).hexdigest())
        kept = {} if self._example is None else _kept_like(folder, _items(self._example), index.device)
        if self._example is not None and len(kept) == len(_items(self._example)):
            return _with(self._example, kept)
        seen = run()
        items = _items(seen)
        if self._example is None:
            kept = _kept(folder, items, index.device)
            self._compare(kept, items)
            self._refuse_full_disk([value for name, value in items.items() if name not in kept])
            self._example = seen
        make_folder(folder)
        for name in items.keys() - kept.keys():
            _save(folder / name, items[name])
        return seen

    def _compare(self, kept: Mapping[str, Tensor], items: Mapping[str, Tensor]) -> None:
        for name, value in kept.items():
            if not _agree(value, items[name]):
                raise InputError(
                    f"{self.folder} holds something else than what this teacher gives for the first images "
                    f"({name.removesuffix(_SUFFIX)}): its data, networks or this library changed since. Delete that "
                    "folder, or give another --teacher-cache"
                )

    def _refuse_full_disk(self, missing: Iterable[Tensor]) -> None:
        needed = self._steps * sum(value.numel() * value.element_size() for value in missing)
        make_folder(self.folder)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"what the teacher gives in {self._steps} steps takes {needed / 1e9:.1f} GB, and {self.folder} has "
                f"{free / 1e9:.1f} GB left: leave out --teacher-cache, or give a folder with more room"
            )


def _key(experiment: Experiment, prepared: Prepared, processes: int) -> dict[str, Any]:
    """Everything that decides what the teacher gives for an image of an epoch."""
    distiller, place = prepared.distiller, prepared.place
    assert isinstance(distiller, Distiller)
    assert distiller.teacher is not None
    data = asdict(experiment.data)
    for name in ("num_workers", "test_limit", "root", "label_smoothing"):
        del data[name]
    for name in _LATER:
        if data[name] == getattr(Data(), name):
            del data[name]
    shown = prepared.dataset.decoding.as_shown and experiment.data.name.startswith("folder:")
    return {
        "teacher": fingerprint(distiller.teacher).hex(),
        "teacher_input": None if prepared.teacher_input is None else asdict(prepared.teacher_input),
        "data": json.loads(json.dumps(data, default=str)),
        "labels": hashlib.blake2b(prepared.dataset.train.labels.tobytes(), digest_size=16).hexdigest(),
        "seed": experiment.seed,
        "batch_size": experiment.training.batch_size,
        "processes": processes,
        # Such files were read as they are stored before there was a choice.
        **({"decoding": "as-shown"} if shown else {}),
        **_arithmetic(place),
    }


def _arithmetic(place: Arithmetic) -> dict[str, Any]:
    made = environment(place)
    return {
        "precision": place.precision,
        "memory_format": str(place.memory_format),
        "device": made["hardware"]["device"],
        "threads": made["hardware"]["threads"],
        "batch_norms": "folded",
        "versions": {name: made["versions"][name] for name in ("attention-transfer", "torch", "timm")},
    }


def _items(reading: Reading) -> dict[str, Tensor]:
    """Everything that was read, by the name of its file."""
    found = {} if reading.logits is None else {f"logits{_SUFFIX}": reading.logits}
    found |= {_name(tap): value for tap, value in reading.values.items()}
    for tap, attention in reading.attention.items():
        parts = {part: getattr(attention, part) for part in _ATTENTION}
        found |= {_name(tap, part): value for part, value in parts.items() if value is not None}
    return found


def _kept(folder: Path, names: Iterable[str], device: torch.device) -> dict[str, Tensor]:
    """Those that can be read there."""
    found = {name: _load(folder / name, device) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _kept_like(folder: Path, examples: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Those that can be read there, and are of other images what the examples are of theirs."""
    return {
        name: value
        for name, value in _kept(folder, examples, device).items()
        if (value.dtype, value.shape[1:]) == (examples[name].dtype, examples[name].shape[1:])
    }


def _with(reading: Reading, items: Mapping[str, Tensor]) -> Reading:
    """The same reading of other images."""
    attention = {
        tap: replace(each, **{part: items[_name(tap, part)] for part in _ATTENTION if _name(tap, part) in items})
        for tap, each in reading.attention.items()
    }
    values = {tap: items[_name(tap)] for tap in reading.values}
    return Reading(items.get(f"logits{_SUFFIX}"), values, attention, reading.image)


def _name(tap: Tap, part: str = "value") -> str:
    # Taps of one module may differ in more than what can be read in a name.
    digest = hashlib.blake2b(repr(tap).encode(), digest_size=4).hexdigest()
    return f"{tap.module or 'network'}-{tap.site}-{part}-{digest}{_SUFFIX}"


def _save(path: Path, value: Tensor) -> None:
    """Write a tensor that appears whole or not at all, with the order in which its dimensions lie in memory."""
    order = sorted(range(value.ndim), key=lambda dim: -value.stride(dim))
    temporary = temporary_name(path)
    try:
        laid = {"value": value.detach().permute(order).contiguous()}
        with said_where(path, temporary):
            save_file(laid, temporary, metadata={"order": json.dumps(order)})
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _load(path: Path, device: torch.device) -> Tensor | None:
    """What was written there, laid out in memory as it was; None if it is missing or broken."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            order = json.loads(file.metadata()["order"])
            value: Tensor = file.get_tensor("value")
        return value.permute(sorted(range(value.ndim), key=order.__getitem__))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def _agree(kept: Tensor, given: Tensor) -> bool:
    if kept.shape != given.shape or kept.dtype != given.dtype:
        return False
    if torch.equal(kept, given) or not given.is_floating_point():
        return torch.equal(kept, given)
    furthest = (kept.float() - given.float()).abs().max()
    return bool(furthest <= _SAME.get(given.dtype, 1e-4) * given.float().abs().max())
