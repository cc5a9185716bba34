"""Checkpoints: everything that an interrupted run needs to go on as if nothing had happened."""

from pathlib import Path
from typing import Any

import torch

from attention_transfer.errors import InputError


class CheckpointError(InputError):
    """A checkpoint that cannot be read."""


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint; tensors only, no code.

    Raises:
        CheckpointError: if the file is damaged.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({error}); delete it to start this run anew"
        ) from error
