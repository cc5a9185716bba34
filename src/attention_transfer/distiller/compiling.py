"""Which versions of torch can compile a distiller."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch.torch_version import TorchVersion

from attention_transfer.capture.opaque_modules import left_uncompiled

COMPILES_FROM = "2.10"
"""The first version of torch that compiles a distiller to what it computes.

Compilers before it cannot look up dataclasses, run `nn.MultiheadAttention` in one piece that nobody can look into, and
where they give up half-way, what a method puts in place of attention can get lost without a word.
"""

_Step = TypeVar("_Step", bound=Callable[..., object])


def compiles() -> bool:
    """Whether the installed torch compiles a distiller; others run it as it is."""
    return TorchVersion(torch.__version__) >= TorchVersion(COMPILES_FROM)


def compiled_where_it_can_be(step: _Step) -> _Step:
    """The step, which stays as it is inside of compiled code where torch cannot compile it."""
    return step if compiles() else cast(_Step, left_uncompiled(step))
