"""What attention links hold in memory, and whether there is so much."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from attention_transfer.errors import InputError
from attention_transfer.memory_budget import memory_of

# Of each channel over the student's patches: in float32, as they are resized and as they are put together for it.
_COPIES = 2
_FLOAT32 = 4
_GIGABYTE = 1e9


def bytes_of_links(stages: Sequence[Float[Tensor, "b c i j"]], grid: tuple[int, int]) -> int:
    """Bytes that a step holds at once for each image on account of its links.

    Args:
        stages: that are read of the teacher.
        grid: rows and columns to which they are resized.
    """
    kept = sum(prod(stage.shape[1:]) * stage.element_size() for stage in stages)
    return kept + sum(stage.shape[1] for stage in stages) * prod(grid) * _FLOAT32 * _COPIES


def check_memory(bytes_per_image: int, images: int, device: torch.device, channels: Sequence[int]) -> None:
    """Refuse links that no memory holds, before a step fails somewhere.

    Args:
        bytes_per_image: from `bytes_of_links`.
        images: in a batch.
        device: where everything lives.
        channels: of each stage that is read, for the message.

    Raises:
        ValueError: a batch needs more than the device has in all.
    """
    there, needed = memory_of(device), bytes_per_image * images
    if there is not None and needed > there:
        listed = ", ".join(map(str, channels))
        raise InputError(
            f"attention links over stages of {listed} channels hold {needed / _GIGABYTE:.1f} GB for a batch of "
            f"{images}, and {device} has {there / _GIGABYTE:.1f} GB in all: select some stages, such as the "
            "last one (stages=(-1,)), a coarser grid, or a smaller batch"
        )
