"""Networks without memory and values, for what can be learned from shapes alone.

>>> from attention_transfer import build
>>> next(outline(lambda: build("resnet8", 10)).parameters()).device.type
'meta'
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from attention_transfer.models.bounds import TooLargeError, bounded

_Network = TypeVar("_Network", bound=nn.Module)


def outline(make: Callable[[], _Network]) -> _Network:
    """A network whose parameters have no memory where that can be helped; no generator is disturbed.

    Args:
        make: builds the network.

    Raises:
        Exception: what `make` raises, whatever its tensors have.
    """
    with torch.random.fork_rng(devices=[]):
        # Constructors that compute with tensors, as all of timm's did with the rates of drop path, need their values; a
        # few take everything for what their parameters are. Each library and version has both kinds.
        for without_memory in (_parameters_on_meta, lambda: torch.device("meta")):
            try:
                with without_memory(), bounded("the network"):
                    return make()
            except TooLargeError:
                raise
            except (RuntimeError, ValueError):
                continue
        with bounded("the network"):
            return make()


@contextmanager
def _parameters_on_meta() -> Generator[None]:
    """Parameters of networks that this thread makes inside lose their memory when they are given to their modules."""
    here = threading.get_ident()

    def forget(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        del module, name
        # Other kinds (uninitialised, quantised) have reasons of their own; a tied one must stay the same object.
        if threading.get_ident() != here or type(parameter) is not nn.Parameter or parameter.is_meta:
            return None
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    # torch's annotation of it forgets that a hook may give another parameter.
    handle = register_module_parameter_registration_hook(cast(Any, forget))
    try:
        yield
    finally:
        handle.remove()
