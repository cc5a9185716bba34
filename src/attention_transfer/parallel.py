"""What processes that share a batch must have in common, for terms that compare images with each other.

>>> import torch
>>> gathered(torch.ones(2, 3)).shape  # in one process the batch itself
torch.Size([2, 3])
"""

from typing import Any, cast

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def gathered(values: Shaped[Tensor, "b *rest"]) -> Shaped[Tensor, "all *rest"]:
    """The rows of all processes, in the order of their ranks; the same values in one process.

    The gradients of all processes are summed on the way back. DistributedDataParallel then averages over processes, so
    that a term that every process computes of all rows has the gradient that one process with the whole batch gives.

    Args:
        values: one row per image of this process; processes may have different numbers of rows, none included, but
            must agree in everything else. Every process has to call this, equally often and in the same order.
    """
    if not _shared():
        return values
    # Other processes are waited for, which a compiled graph cannot say.
    return cast(Tensor, torch.compiler.disable(_of_all)(values))  # pyright: ignore[reportArgumentType]


def agreed(draws: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """The draws of the first process in all of them; the same draws in one process.

    Every process has a random generator of its own. What is drawn for a term that each computes of all rows has to be
    the same nonetheless: averaged over processes, it would be less random than in one.

    Args:
        draws: of one shape in all processes, without gradient. Every process has to call this, as it has `gathered`.
    """
    if not _shared():
        return draws
    return cast(Tensor, torch.compiler.disable(_of_first)(draws))  # pyright: ignore[reportArgumentType]


def _shared() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _of_first(draws: Tensor) -> Tensor:
    draws = draws.contiguous()
    distributed.broadcast(draws, 0)
    return draws


def _of_all(values: Tensor) -> Tensor:
    own = torch.tensor([len(values)], device=values.device)
    counts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, own)
    return cast(Tensor, _Gather.apply(values, [int(count) for count in torch.cat(counts).tolist()]))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        # Collectives want one shape from everybody.
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        found = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(found, padded)
        return torch.cat([rows[:count] for rows, count in zip(found, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Any
    ) -> tuple[Tensor, None]:
        (gradient,) = gradients
        gradient = gradient.contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient.split(ctx.counts)[distributed.get_rank()], None
