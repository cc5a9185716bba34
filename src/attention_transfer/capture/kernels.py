"""Which of torch's equal kernels computes attention."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_WRITTEN_OUT = 160


def attention_kernel(device: torch.device, tokens: int) -> AbstractContextManager[Any]:
    """The faster kernel for short sequences; the choice is torch's own, for all threads of the process.

    On a CPU the fused kernel is slow in bfloat16, forwards and backwards together: writing maps out takes 0.17 of its
    time for 17 tokens, 0.5 for 65, 0.6 for 129 and as long for 197 to 257; above it, and in float32, fusing pays
    (torch 2.15, AMD EPYC, one thread, heads of 32 and 64).

    Args:
        device: where attention is computed.
        tokens: largest number of queries; 0 leaves the choice to torch.
    """
    short = 0 < tokens <= _WRITTEN_OUT and device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if short and not torch.compiler.is_compiling():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
