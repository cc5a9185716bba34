"""One process or many: torchrun's environment, DistributedDataParallel, and who writes files."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from attention_transfer.capture.private_names import left_out

if TYPE_CHECKING:
    from attention_transfer.distiller import Distiller
    from attention_transfer.pretraining import MaskedAutoencoder

Value = TypeVar("Value")


@dataclass(frozen=True)
class Process:
    """This process among all of a run.

    Args:
        rank: 0 … world_size − 1; rank 0 writes files.
        world_size: number of processes.
        local_rank: rank on this machine, which chooses the accelerator.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def writes(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """The sum over all."""
        if self.world_size > 1:
            distributed.all_reduce(value)
        return value

    def gathered(self, value: Value) -> list[Value]:
        """What each process has, in the order of their ranks; on all but the first, only its own."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        distributed.gather_object(value, found if self.writes else None)
        return found if self.writes else [value]

    def wait(self) -> None:
        """Wait for all others."""
        if self.world_size > 1:
            distributed.barrier()


@contextmanager
def joined(device: str = "auto") -> Generator[Process]:
    """Join the processes that torchrun started; alone without torchrun.

    Args:
        device: of the training, which decides how processes talk.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Process()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if distributed.is_available() and distributed.is_initialized():
        # By whoever calls, who will also leave them.
        yield Process(distributed.get_rank(), distributed.get_world_size(), local_rank)
        return
    accelerated = torch.cuda.is_available() and not device.startswith("cpu")
    if accelerated:
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if accelerated else "gloo")
    try:
        yield Process(distributed.get_rank(), world_size, local_rank)
    finally:
        distributed.destroy_process_group()


def wrap(distiller: "Distiller | MaskedAutoencoder", process: Process) -> nn.Module:
    """The distiller as each process runs it: gradients averaged over all, parameters that no term reaches left out.

    Args:
        distiller: on this process's device.
        process: of this run.
    """
    if process.world_size == 1:
        return distiller
    unused = distiller.unused_parameters()
    left = left_out(distiller, (*unused, *_kept_equal(distiller)))
    device = next(distiller.parameters()).device
    return DistributedDataParallel(
        distiller,
        device_ids=None if device.type == "cpu" else [device],
        find_unused_parameters=bool(unused) and not left,
    )


def _kept_equal(distiller: nn.Module) -> tuple[str, ...]:
    """Names of buffers that need not be copied from the first process in every step, see `Method.parts`."""
    return tuple(
        f"{path}.{name}"
        for path, module in distiller.named_modules()
        if getattr(module, "equal_in_all_processes", False)
        for name, _ in module.named_buffers(recurse=False)
    )
