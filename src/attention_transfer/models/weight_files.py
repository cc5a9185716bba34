"""Files of weights, read without running anybody's code; files of any other kind are refused by their name."""

import argparse
import json
import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from attention_transfer.errors import InputError, first_line
from attention_transfer.files.bare_student import STUDENT_WEIGHTS
from attention_transfer.files.untrusted import unpacks_to

_SAVE = "where it was trained, write torch.save(model.state_dict(), FILE)"
# First bytes of what is often taken for a file of weights, with what it is and what to do.
_BEGINNINGS = (
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes them: convert it, or {_SAVE}"),
    (b"\x93NUMPY", "a single NumPy array: a file of weights holds tensors by name"),
    (b"GGUF", f"a GGUF file, whose weights are quantised: {_SAVE}"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`"),
    (b"\x1f\x8b", "compressed: unpack it first"),
    (b"<!doctype html", "a web page, not the file behind its link: download it again"),
    (b"<html", "a web page, not the file behind its link: download it again"),
    (b"%PDF", "a PDF document"),
)
_ENDINGS = {
    ".onnx": f"an ONNX graph, whose weights have lost their names in PyTorch: {_SAVE}",
    ".pb": f"a TensorFlow graph: convert it, or {_SAVE}",
    ".tflite": f"a TensorFlow Lite graph: convert it, or {_SAVE}",
    ".index": f"the index of a TensorFlow checkpoint: convert that, or {_SAVE}",
    ".data-00000-of-00001": f"a part of a TensorFlow checkpoint: convert that, or {_SAVE}",
    ".msgpack": f"a checkpoint of Flax: convert it, or {_SAVE}",
    ".pdparams": f"a checkpoint of PaddlePaddle: convert it, or {_SAVE}",
    ".distcp": "one process's part of a distributed checkpoint: join its folder into one file with "
    "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`",
}


UNPACKED_TIMES, UNPACKED_BYTES = 4, 2**24
"""What may come out of an archive of weights: torch stores tensors as they are."""
_PICKLE_READ = 2**26  # bytes that are looked at to say what a pickle holds


class WeightsError(InputError):
    """Weights that cannot be read, are refused, or do not fit."""


def read_content(file: Path) -> Any:
    """What a file holds, on the CPU: a mapping of names to tensors, or whatever lies around one.

    Safetensors (known by their content, whatever the file is called), or what `torch.load(weights_only=True)` accepts.

    Raises:
        WeightsError: if the file is missing, unreadable, of another kind, or holds classes that could run code.
    """
    if not file.is_file():
        raise WeightsError(_not_a_file(file))
    try:
        with file.open("rb") as opened:
            beginning = opened.read(64)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror}") from error
    if not beginning:
        raise WeightsError(f"{file} is empty: it is no file of weights")
    kind = _other_kind(file, beginning)
    if kind is not None:
        raise WeightsError(f"{file} is no file of PyTorch weights but {kind}")
    if (file.suffix == ".safetensors" and not beginning.startswith(b"PK")) or _starts_as_safetensors(beginning):
        return _safetensors(file)
    return _unpickled(file)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file in safetensors, by name, on the CPU: what a run keeps, but for its checkpoints.

    Raises:
        WeightsError: it is missing or no such file.
    """
    if not file.is_file():
        raise WeightsError(_not_a_file(file))
    return _safetensors(file)


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(f"{file} is no readable safetensors file: {first_line(error)}") from error


def _unpickled(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # They suggest that authors be told of a refused pickle, and that quantised tensors be written otherwise.
            warnings.simplefilter("ignore")
            # Trainers keep their settings beside the weights in one: a bag of attributes, without any code.
            with file.open("rb") as opened, torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL ([\w.]+)|(?:class|type) ([\w.]+\.[\w.]+))", str(error))
        held = _classes(file)
        if wanted is None and held is None:
            raise WeightsError(f"{file} is no file of weights: it is neither safetensors nor of torch.save") from error
        holds = f"it holds an object of {wanted[1] or wanted[2]}" if wanted else f"it is more than tensors ({held})"
        raise WeightsError(
            f"{file} is refused: {holds}, and unpickling it could run code. Load it where you trust it and save the "
            "state dict alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:
        # Whatever a reader of pickles and archives falls over is in the file. Its words advise to read it unsafely.
        raise WeightsError(f"{file} is no file of weights, or it is damaged ({type(error).__name__})") from error


def _not_a_file(file: Path) -> str:
    """What is wrong with a place that is not a file."""
    if not file.is_dir():
        if file.with_name(f"{file.name}.index").is_file():
            return f"{file} is a checkpoint of TensorFlow in several files: convert it, or {_SAVE}"
        return f"no weights file at {file}" + (": it is neither a file nor a folder" if file.exists() else "")
    if (file / ".metadata").is_file():
        return (
            f"{file} is a folder with a distributed checkpoint: join it into one file with "
            f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {file} FILE`"
        )
    if (file / STUDENT_WEIGHTS).is_file():
        return f"no weights file at {file}: it is a folder, of a run; write {file} alone, or {file / STUDENT_WEIGHTS}"
    if (file / "config.json").is_file():
        return f"no weights file at {file}: it is a folder of transformers; write hf:{file}@pretrained"
    if (file / "saved_model.pb").is_file():
        return f"{file} is a model of TensorFlow: convert it, or {_SAVE}"
    if (file / "data.pkl").is_file():
        return f"no weights file at {file}: it is a folder, an unpacked file of torch.save; pack it again, or {_SAVE}"
    return f"no weights file at {file}: it is a folder; name the file in it"


def _other_kind(file: Path, beginning: bytes) -> str | None:
    """What a file is, if not one of weights in a format that is read."""
    for bytes_, kind in _BEGINNINGS:
        if beginning.lstrip().lower().startswith(bytes_.lower()):
            return kind
    if beginning.startswith(b"PK\x03\x04"):
        return _kind_of_archive(file)
    if file.name.endswith(".index.json"):
        return _kind_of_index(file)
    return next((kind for ending, kind in _ENDINGS.items() if file.name.endswith(ending)), None)


def _kind_of_archive(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    unpacked = unpacks_to(file, times=UNPACKED_TIMES, least=UNPACKED_BYTES)
    if unpacked is not None:
        return f"an archive that unpacks to {unpacked:,} bytes, which no file of torch.save does"
    if names and all(name.endswith(".npy") for name in names):
        return f"an archive of NumPy arrays (.npz), as JAX writes them: convert it, or {_SAVE}"
    if any(name.endswith("model.weights.h5") for name in names):
        return f"a model of Keras: convert it, or {_SAVE}"
    parts = {name.split("/")[1] for name in names if name.count("/")}
    if {"archive_format", "models"} & parts:
        return f"an exported program of torch.export: {_SAVE}"
    if "code" in parts:
        return f"a program of TorchScript: load it with torch.jit.load where you trust it, then {_SAVE}"
    if not any(name.endswith("data.pkl") for name in names):
        return "an archive of other files: unpack it first"
    return None


def _kind_of_index(file: Path) -> str:
    try:
        shards = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return "a JSON file"
    return (
        f"the index of weights in {len(shards)} files ({', '.join(map(str, shards[:2]))}, …): open the folder as "
        f"hf:{file.parent}@pretrained, or join them into one file"
    )


def _starts_as_safetensors(beginning: bytes) -> bool:
    """Whether a file begins with the length of a header and the header's brace, as safetensors do."""
    return len(beginning) > 8 and beginning[8:9] == b"{" and beginning[6:8] == b"\0\0"


def _classes(file: Path) -> str | None:
    """What a pickle wants to make, read off its instructions without following them; None where it is no pickle."""
    strings: list[str] = []
    found: list[str] = []
    try:
        with file.open("rb") as opened:
            content = opened.read(_PICKLE_READ)
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STACK_GLOBAL":
                found.append(".".join(strings[-2:]))
            elif opcode.name == "GLOBAL":
                found.append(str(argument).replace(" ", "."))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # there are many ways not to be a pickle
        return None
    return f"it holds {', '.join(dict.fromkeys(found))}" if found else "it holds no tensors"
