"""How much memory there is for what methods learn and remember."""

from typing import Protocol, runtime_checkable

import torch

from attention_transfer.models.bounds import main_memory


@runtime_checkable
class ChecksMemory(Protocol):
    """What a method learns, if it or its step may be larger than a device."""

    def check_memory(self, images: int, device: torch.device) -> None:
        """Refuse what no memory holds, before a step fails somewhere.

        Args:
            images: in a batch.
            device: where the step runs.

        Raises:
            ValueError: it needs more than the device has; says how much, and what to do.
        """
        ...


def memory_of(device: torch.device) -> int | None:
    """Bytes that a device has in all, those that a container may use for main memory; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return main_memory()
