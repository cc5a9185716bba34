"""Running a network without leaving a trace in parameters, buffers, modes or random generators.

>>> import torch
>>> from torch import nn
>>> norm = nn.BatchNorm2d(3)
>>> with undisturbed(norm):
...     _ = norm(torch.rand(2, 3, 4, 4) + 5)
>>> float(norm.running_mean.abs().max())
0.0

Modes are put back one by one, for a network may be frozen in part; noise is the same each time:

>>> model = nn.Sequential(norm.eval(), nn.Dropout())
>>> modes = Modes(model)
>>> set_mode(model, False)
>>> modes.set()
>>> [module.training for module in model]
[False, True]
>>> torch.equal(noise(torch.empty(1, 3, 8, 8)), noise(torch.empty(1, 3, 8, 8)))
True
"""

import random
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from attention_transfer.capture.outputs import Images


def set_mode(model: nn.Module, training: bool) -> None:
    """The same as `model.train(training)`. Exported modules refuse that, and stay in the mode they were exported in.

    Args:
        model: network.
        training: whether it shall be in training mode.
    """
    try:
        model.train(training)
    except NotImplementedError:
        model.training = training
        for child in model.children():
            set_mode(child, training)


class Modes:
    """The modes of all modules of networks, to be set again whoever has changed them.

    Args:
        models: in the modes to keep.
    """

    def __init__(self, *models: nn.Module) -> None:
        # What torch.jit.freeze gives has none.
        self._modes = [
            (module, module.training) for model in models for module in model.modules() if hasattr(module, "training")
        ]

    def set(self) -> None:
        """Set them again."""
        for module, training in self._modes:
            # Compilers follow what changes, so nothing may that need not.
            if module.training != training:
                module.training = training


@contextmanager
def undisturbed(*models: nn.Module) -> Generator[None]:
    """Whatever runs inside leaves buffers, modes, gradients' absence and random generators as they were."""
    modes = Modes(*models)
    python, numpy = random.getstate(), np.random.get_state()
    devices = {tensor.device for model in models for tensor in (*model.parameters(), *model.buffers())}
    accelerators = sorted({device.index or 0 for device in devices if device.type not in ("cpu", "meta")})
    kind = next((device.type for device in devices if device.type not in ("cpu", "meta")), "cuda")
    try:
        with kept(buffers_of(*models)), torch.random.fork_rng(devices=accelerators, device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        modes.set()


Buffer = tuple[nn.Module, str]
"""A module and the name of one of its buffers."""


def buffers_of(*models: nn.Module) -> tuple[Buffer, ...]:
    """All buffers of networks."""
    return tuple(
        (module, name)
        for model in models
        for module in model.modules()
        for name, _ in module.named_buffers(recurse=False, remove_duplicate=False)
    )


@contextmanager
def kept(buffers: Iterable[Buffer]) -> Generator[None]:
    """Buffers are the same tensors afterwards, with the same values.

    Args:
        buffers: of any modules.
    """
    before = [(module, name, getattr(module, name)) for module, name in buffers]
    values = [value.detach().clone() for _, _, value in before]
    try:
        yield
    finally:
        with torch.no_grad():
            for (module, name, buffer), value in zip(before, values, strict=True):
                # Nothing may write into tensors of inference mode out here.
                if not buffer.is_inference():
                    # Observers of ranges grow theirs when they first run.
                    if buffer.shape != value.shape:
                        buffer.resize_(value.shape)
                    buffer.copy_(value)
                if getattr(module, name, None) is not buffer:
                    setattr(module, name, buffer)


def changed(buffers: Sequence[Buffer], run: Callable[[], object]) -> tuple[Buffer, ...]:
    """Those of a network's buffers that a run of it changes.

    Args:
        buffers: to look at.
        run: runs it.
    """
    before = [getattr(module, name).detach().clone() for module, name in buffers]
    run()
    return tuple(
        (module, name)
        for (module, name), value in zip(buffers, before, strict=True)
        if not _same(getattr(module, name), value)
    )


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num())


@overload
def noise(example: Tensor, least: int = 2) -> Tensor: ...


@overload
def noise(example: Images, least: int = 2) -> Images: ...


def noise(example: Images, least: int = 2) -> Images:
    """Seeded noise of the example's shape, type and device, for at least two images (batch norm needs them).

    Args:
        example: images in one tensor, or a list of images.
        least: how many there are at least.
    """
    # Whatever the defaults are of those who build a distiller.
    generator = torch.Generator("cpu").manual_seed(0)

    def like(image: Tensor, shape: Sequence[int]) -> Tensor:
        values = torch.randn(tuple(shape), generator=generator, device="cpu", dtype=torch.float32)
        return values.to(image.device, image.dtype)

    count = max(least, len(example))
    if isinstance(example, Tensor):
        return like(example, (count, *example.shape[1:]))
    return [like(example[i % len(example)], example[i % len(example)].shape) for i in range(count)]


@contextmanager
def own_buffers(model: nn.Module) -> Generator[None]:
    """The network runs on copies of its buffers inside, so that an additional pass moves no running statistics.

    The originals are set aside, not written back: a graph that was built with them stays valid.
    """
    own = [(module, name, getattr(module, name)) for module, name in buffers_of(model)]
    try:
        for module, name, buffer in own:
            setattr(module, name, buffer.clone())
        yield
    finally:
        for module, name, buffer in own:
            setattr(module, name, buffer)
