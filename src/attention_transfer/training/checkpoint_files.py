"""Checkpoints on disk: a folder of safetensors and JSON with a checksum, of which the one before is kept too.

    checkpoints/epoch-3-step-0/{checkpoint.json, tensors.safetensors}

A run folder is handed on, and its checkpoints with it: they hold data alone, nothing of which is taken before the
checksum, the names and the shapes are right.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch

from attention_transfer.errors import InputError, first_line
from attention_transfer.files.atomic import make_folder, remove_whole, whole_folder
from attention_transfer.files.json_fields import Fields
from attention_transfer.files.untrusted import parse_object, read_regular, refuse_irregular, unpacks_to
from attention_transfer.files.writing import to_write
from attention_transfer.training.checkpoint_checks import START_ANEW, CheckpointError
from attention_transfer.training.checkpoint_tree import put_together, taken_apart

FORMAT = 1
CONTENT, TENSORS = "checkpoint.json", "tensors.safetensors"
_NAME = re.compile(r"epoch-(0|[1-9]\d{0,8})-step-(0|[1-9]\d{0,8})")


class DamagedError(CheckpointError):
    """A checkpoint whose files are not as they were written."""


@dataclass(frozen=True)
class Found:
    """A checkpoint as it was read.

    Args:
        state: what it holds.
        path: of it.
        notes: on those that were passed over for it.
    """

    state: dict[str, Any]
    path: Path
    notes: tuple[str, ...] = ()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest first; last of all one of an older version of this library."""
    numbers = {path: found for path in folder.glob("epoch-*") if (found := _NAME.fullmatch(path.name))}
    latest = sorted(numbers, key=lambda path: (int(numbers[path][1]), int(numbers[path][2])), reverse=True)
    pickled = folder / PICKLED
    return [*latest, *([pickled] if pickled.exists() or pickled.is_symlink() else [])]


def read_latest(folder: Path) -> Found | None:
    """The latest checkpoint that is as it was written; None where there is none at all.

    Raises:
        CheckpointError: all of them are damaged, or are no checkpoints.
    """
    refused: list[DamagedError] = []
    for path in checkpoints(folder):
        try:
            state = read_pickled(path) if path.name == PICKLED else read_checkpoint(path)
        except DamagedError as error:
            refused.append(error)
            continue
        return Found(state, path, tuple(f"{error}. The one before it is used: {path.name}" for error in refused))
    if refused:
        raise refused[0]
    return None


def write_checkpoint(folder: Path, state: Mapping[str, Any], keep: Path | None = None) -> Path:
    """Write a checkpoint, whole or not at all, and remove all others but one.

    Args:
        folder: that checkpoints lie in.
        state: has `epoch` and `first_batch`, which name it.
        keep: the one before, which is good.

    Returns:
        Where it was written.

    Raises:
        RunUnwritableError: nothing can be written there, or no more; those that there are stay.
    """
    content, tensors = taken_apart(state)
    path = to_write(folder, f"epoch-{state['epoch']}-step-{state['first_batch']}")
    make_folder(folder)
    if path.is_file() and not path.is_symlink():
        # No checkpoint, which was said when it was read.
        path.unlink()
    with whole_folder(path) as inside:
        safetensors.torch.save_file(tensors, inside / TENSORS)
        file = {"bytes": (inside / TENSORS).stat().st_size, "sha256": _digest(inside / TENSORS)}
        body = {"format": FORMAT, "tensors": file, "state": content}
        text = json.dumps(body | {"checksum": _checksum(body)}, allow_nan=False)
        (inside / CONTENT).write_text(text, encoding="utf-8")
    for other in checkpoints(folder):
        if other not in (path, keep):
            if other.is_dir():
                remove_whole(other)
            else:
                other.unlink()
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU; data only, no code.

    Raises:
        DamagedError: if its files are not as they were written, or are none of ours.
        CheckpointError: if a later version of this library wrote it.
    """
    try:
        if not path.is_dir():
            raise InputError("it is no folder")
        body = parse_object(read_regular(path / CONTENT), CONTENT)
        fields = Fields(body, CONTENT)
        if fields.whole("format", 1, needed=True) != FORMAT:
            raise CheckpointError(
                f"the checkpoint {path} has the format {body['format']}, and this version reads {FORMAT}: go on with "
                "the version that wrote it"
            )
        checksum = fields.text("checksum", needed=True)
        if checksum != _checksum({name: value for name, value in body.items() if name != "checksum"}):
            raise InputError(f"{CONTENT} does not have its checksum")
        file = fields.inner("tensors", needed=True)
        assert file is not None
        tensors = path / TENSORS
        refuse_irregular(tensors, tensors.stat())
        size = tensors.stat().st_size
        if size != file.whole("bytes", needed=True):
            raise InputError(f"{TENSORS} has {size:,} bytes, and {file.values['bytes']:,} were written")
        if _digest(tensors) != file.text("sha256", needed=True):
            raise InputError(f"{TENSORS} does not have its checksum")
        # Its header is bounded by safetensors, and what it holds by its bytes: nothing is packed.
        state = put_together(body.get("state"), safetensors.torch.load_file(tensors))
    except CheckpointError:
        raise
    except (InputError, OSError, safetensors.SafetensorError, ValueError, KeyError, MemoryError) as error:
        raise DamagedError(
            f"the checkpoint {path} cannot be read: it is damaged, or no checkpoint ({first_line(error)}); {START_ANEW}"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"the checkpoint {path} holds no fields by name; {START_ANEW}")
    return cast("dict[str, Any]", state)


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


PICKLED = "last.pt"
# What may come out of an archive: torch stores tensors as they are.
_UNPACKED_TIMES, _UNPACKED_BYTES = 4, 2**24


def read_pickled(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU; tensors only, no code.

    Raises:
        CheckpointError: if the file is damaged, or no checkpoint.
    """
    try:
        refuse_irregular(path, path.stat())
        if unpacks_to(path, times=_UNPACKED_TIMES, least=_UNPACKED_BYTES) is not None:
            raise InputError("it unpacks to much more than torch.save packs")
        with warnings.catch_warnings():
            # Of tensors that no run of ours keeps.
            warnings.simplefilter("ignore")
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except InputError as error:
        raise CheckpointError(f"the checkpoint {path} is not read: {error}; {START_ANEW}") from error
    except Exception as error:
        # Whatever a reader of pickles and archives falls over is in the file. Its words advise to read it unsafely.
        raise CheckpointError(
            f"the checkpoint {path} cannot be read: it is damaged, or no checkpoint ({type(error).__name__}); "
            f"{START_ANEW}"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"the checkpoint {path} holds no fields by name; {START_ANEW}")
    return cast("dict[str, Any]", state)
