"""Running a network so that nobody can tell afterwards."""

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(*models: nn.Module) -> Generator[None]:
    """Whatever runs inside leaves buffers, modes, gradients' absence and random generators as they were."""
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for model in models
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    modes = [(module, module.training) for model in models for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    devices = {tensor.device for model in models for tensor in (*model.parameters(), *model.buffers())}
    accelerators = sorted({device.index or 0 for device in devices if device.type not in ("cpu", "meta")})
    kind = next((device.type for device in devices if device.type not in ("cpu", "meta")), "cuda")
    try:
        with torch.random.fork_rng(devices=accelerators, device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                setattr(module, name, buffer.copy_(value))


def noise(example: Tensor, least: int = 2) -> Tensor:
    """Seeded noise of the example's shape, type and device, for at least two images (batch norm needs them)."""
    shape = (max(least, example.shape[0]), *example.shape[1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(example.device, example.dtype)


@contextmanager
def own_buffers(model: nn.Module) -> Generator[None]:
    """The network runs on copies of its buffers inside, so that an additional pass moves no running statistics.

    The originals are set aside, not written back: a graph that was built with them stays valid.
    """
    kept = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    try:
        for module, name, buffer in kept:
            setattr(module, name, buffer.clone())
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
