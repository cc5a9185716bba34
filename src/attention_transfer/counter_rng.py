"""Random numbers without a generator: each is a hash of what it belongs to, the same everywhere, in any order."""

from typing import overload

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from attention_transfer.errors import InputError

_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed number


def hashed(seed: int, *counters: int | Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """64 well-mixed bits for each combination of the seed and the counters.

    The finaliser is that of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), applied once per counter; integer
    arithmetic alone, hence the same bits on every machine.

    Args:
        seed: any integer; only its lowest 64 bits count.
        counters: what the number belongs to, such as epoch, sample and stream; tensors broadcast against each other and
            share one device. At least one is a tensor.
    """
    state: int | Tensor = _mix(_wrapped(seed + _GOLDEN))
    for counter in counters:
        state = _mixed_in(state, counter)
    if isinstance(state, int):
        raise InputError("hashed() needs at least one counter that is a tensor")
    return state


def uniform(seed: int, *counters: int | Int64[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Numbers 0 ≤ u < 1, multiples of 2⁻²⁴ and thus exact in float32; arguments as for `hashed`."""
    return ((hashed(seed, *counters) >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def integers(
    high: int | Int64[Tensor, "..."], seed: int, *counters: int | Int64[Tensor, "..."]
) -> Int64[Tensor, "..."]:
    """Integers 0 ≤ k < high ≤ 2³¹; further arguments as for `hashed`."""
    return (((hashed(seed, *counters) >> 33) & 0x7FFFFFFF) * high) >> 31


def _mixed_in(state: int | Tensor, counter: int | Tensor) -> int | Tensor:
    if isinstance(state, int) and isinstance(counter, int):
        return _mix(_wrapped(state + _GOLDEN * (counter + 1)))
    return _mix(_wrapped((counter + 1) * _GOLDEN) + state)


@overload
def _mix(x: int) -> int: ...
@overload
def _mix(x: int | Tensor) -> int | Tensor: ...
def _mix(x: int | Tensor) -> int | Tensor:
    # Shifts of signed numbers drag the sign along; the masks make them the logical shifts of the original.
    x = x ^ ((x >> 30) & 0x3FFFFFFFF)
    x = _wrapped(x * -0x40A7B892E31B1A47)
    x = x ^ ((x >> 27) & 0x1FFFFFFFFF)
    x = _wrapped(x * -0x6B2FB644ECCEEE15)
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@overload
def _wrapped(x: int) -> int: ...
@overload
def _wrapped(x: int | Tensor) -> int | Tensor: ...
def _wrapped(x: int | Tensor) -> int | Tensor:
    """As a signed number of 64 bits; tensors wrap by themselves."""
    return x if isinstance(x, Tensor) else ((x + 2**63) % 2**64) - 2**63
