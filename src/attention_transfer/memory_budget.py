"""How much memory there is for what methods learn and remember.

>>> import torch
>>> memory_of(torch.device("cpu")) is None or memory_of(torch.device("cpu")) > 0
True
"""

import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

# Of version 2 and version 1 of control groups, as a container sees its own.
_CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


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
    """Bytes that a device has in all, those that a container may use for main memory; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return main_memory()


def main_memory() -> int | None:
    """Bytes of main memory, those that a container may use in one; None if unknown."""
    names = getattr(os, "sysconf_names", {})
    known = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names)
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if known else []
    for path in _CONTAINER_LIMITS:
        text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        # Without a limit one of them says `max`, the other a number larger than any memory.
        found += [int(text)] if text.isdigit() else []
    return min(found, default=None)
