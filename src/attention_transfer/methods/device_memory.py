"""How much memory there is for what methods learn and remember."""

import os
from typing import Protocol, runtime_checkable

import torch


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
    """Bytes that a device has in all; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
