"""Seeding of Python's, NumPy's and torch's global generators, restored afterwards.

>>> def draw():
...     with forked():
...         seed_generators(123)
...         return random.random(), float(torch.rand(()))
>>> before = random.getstate()
>>> draw() == draw(), random.getstate() == before
(True, True)
"""

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch

_POSITIVE = 2**63 - 1


@contextmanager
def forked(device: torch.device | None = None) -> Generator[None]:
    """Restore Python's, NumPy's and torch's global generators when the block ends.

    Args:
        device: whose generator is used beside the CPU's; None or a CPU means no other.
    """
    python, numpy = random.getstate(), np.random.get_state()
    accelerator = None if device is None or device.type == "cpu" else device
    devices = [] if accelerator is None else [accelerator.index or 0]
    try:
        with torch.random.fork_rng(devices=devices, device_type="cuda" if accelerator is None else accelerator.type):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def seed_generators(number: int, device: torch.device | None = None) -> None:
    """Seed all global generators from a 64-bit hash.

    Args:
        number: the hash.
        device: as for `forked`.
    """
    number &= _POSITIVE
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)
    # Only the devices in use: torch.manual_seed records its call for every accelerator, here once per image.
    torch.default_generator.manual_seed(number)
    if device is not None and device.type != "cpu":
        accelerator = torch.get_device_module(device)
        # The device at hand need not be the current one.
        getattr(accelerator, "manual_seed_all", accelerator.manual_seed)(number)
