"""Files of tensors, read without running anybody's code."""

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
from attention_transfer.runs.reading import refuse_irregular

_SAFE = ".safetensors"
_WAY_OUT = "Load it where you trust it and save the state dict alone: torch.save(model.state_dict(), FILE)"
# torch stores tensors as they are; what unpacks to much more was not written by it.
_UNPACKED_SHARE, _UNPACKED_BYTES = 4, 2**24
_PICKLES_READ = 2**26


class WeightsError(InputError):
    """Weights that cannot be read, are refused, or do not fit."""


def read_content(file: Path) -> Any:
    """Whatever a file of weights holds, on the CPU: tensors, alone or in lists and dictionaries.

    Args:
        file: safetensors, or what `torch.save` wrote.

    Raises:
        WeightsError: it is missing, no file of weights, damaged, or holds what could run code.
    """
    _refuse_no_file(file)
    return read_tensors(file) if file.suffix == _SAFE else _read_pickle(file)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file in safetensors, by name, on the CPU.

    Raises:
        WeightsError: it is missing or no such file.
    """
    _refuse_no_file(file)
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{file} is no readable safetensors file: {first_line(error)}") from error


def _refuse_no_file(file: Path) -> None:
    try:
        state = file.stat()
    except (OSError, ValueError) as error:
        raise WeightsError(f"no weights file at {str(file)[:300]}: {_reason(error)}") from error
    if file.is_dir():
        raise WeightsError(f"no weights file at {file}: it is a folder")
    try:
        refuse_irregular(file, state)
    except InputError as error:
        raise WeightsError(str(error)) from error
    if not state.st_size:
        raise WeightsError(f"{file} is empty: it is no file of weights")


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or "no file can be called that"


def _read_pickle(file: Path) -> Any:
    _refuse_bomb(file)
    try:
        with warnings.catch_warnings():
            # It suggests that its authors be told of the pickle that it refuses.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|class|type) ([\w.]+\.[\w.]+)", str(error))
        held = _classes(file) if wanted is None else f"it holds an object of {wanted[1]}"
        if held is None:
            raise WeightsError(f"{file} is no file of weights: it is neither safetensors nor of torch.save") from error
        what = f"it is more than tensors ({held})" if wanted is None else held
        raise WeightsError(f"{file} is refused: {what}, and unpickling it could run code. {_WAY_OUT}") from error
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror or first_line(error)}") from error
    except Exception as error:  # the unpickler of torch passes on whatever a damaged file makes Python raise
        if "TorchScript" in str(error):
            raise WeightsError(f"{file} is refused: it is a program of TorchScript. {_WAY_OUT}") from error
        raise WeightsError(f"{file} is no file of weights, or it is damaged ({_said(error)})") from error


def _said(error: Exception) -> str:
    """What torch says, but for its advice to trust the file, which is not ours to give."""
    text = first_line(error)
    kind = type(error).__name__
    return kind if "weights_only" in text or "torch.load" in text else f"{kind}: {text}"


def _refuse_bomb(file: Path) -> None:
    """Refuse an archive that unpacks to much more than it is."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # torch says what is wrong with it.
    if unpacked > _UNPACKED_SHARE * file.stat().st_size + _UNPACKED_BYTES:
        raise WeightsError(
            f"{file} unpacks to {unpacked:,} bytes from {file.stat().st_size:,}, which no file of torch.save does: it "
            "is refused"
        )


def _classes(file: Path) -> str | None:
    """What a pickle wants to make, read off its instructions without following them; None where it is no pickle."""
    strings: list[str] = []
    found: list[str] = []
    try:
        with file.open("rb") as stream:
            content = stream.read(_PICKLES_READ)
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STACK_GLOBAL":
                found.append(".".join(strings[-2:]))
            elif opcode.name == "GLOBAL":
                found.append(str(argument).replace(" ", "."))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # so many ways not to be a pickle
        return None
    return f"it holds {', '.join(dict.fromkeys(found))}" if found else "it holds no tensors"
