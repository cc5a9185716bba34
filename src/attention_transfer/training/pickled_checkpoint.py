"""Checkpoints of older versions of this library, which torch has pickled: they are read, and never written."""

import warnings
from pathlib import Path
from typing import Any, cast

import torch

from attention_transfer.errors import InputError
from attention_transfer.files.untrusted import refuse_irregular, unpacks_to
from attention_transfer.training.checkpoint_checks import START_ANEW, CheckpointError

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
