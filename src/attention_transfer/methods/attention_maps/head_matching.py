"""Which heads and layers of a teacher correspond to which of a student, where their numbers differ.

>>> chosen_heads(first_heads=2, heads=None, count=4)
[0, 1]
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from attention_transfer.capture import Attention
from attention_transfer.capture.opaque_modules import left_uncompiled
from attention_transfer.errors import InputError, needing
from attention_transfer.methods.attention_maps.averages import only_map
from attention_transfer.methods.attention_maps.cross_entropy import log_map


def check_heads(first_heads: int | None, heads: tuple[int, ...] | None) -> None:
    """Refuse settings that contradict each other.

    Args:
        first_heads: only the first so many.
        heads: only these, by number.

    Raises:
        ValueError: if both are given, or no heads.
    """
    if first_heads is not None and (heads is not None or first_heads < 1):
        raise InputError(f"give either first_heads, at least 1, or heads, not {first_heads} and {heads}")
    if heads is not None and (not heads or len(set(heads)) < len(heads)):
        raise InputError(f"heads must name heads, each once, not {heads}")


def chosen_heads(
    first_heads: int | None, heads: tuple[int, ...] | None, count: int, who: str = "the layer"
) -> list[int]:
    """Numbers of the heads that take part, from 0.

    Args:
        first_heads: only the first so many; None for all.
        heads: only these, by number, negative ones from the end; None for all.
        count: how many there are.
        who: has them, for the message.

    Raises:
        ValueError: for a head that does not exist, or is named twice.
    """
    wanted = list(range(count if first_heads is None else first_heads)) if heads is None else list(heads)
    strange = [head for head in wanted if not -count <= head < count]
    if strange:
        raise InputError(f"{who} has {count} heads, numbered from 0; there is no head {strange[0]}")
    numbers = [head % count for head in wanted]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"heads must name heads, each once; {who} has {count} heads, of which {heads} are {numbers}")
    return numbers


# Share of the partner in a learned mixture when it starts: nearly all, and still on the slope of the softmax.
_START = 0.9
_LEAST_LOGARITHM = -100.0


def head_costs(student: Attention, teacher: Attention) -> Float[Tensor, "h g"]:
    """Mean over batch and queries of the Kullback-Leibler divergence of each student head from each teacher head.

    Args:
        student: h heads.
        teacher: g heads, over the same tokens.
    """
    with torch.no_grad():
        # What the student cannot see costs much, not infinitely much.
        ours, theirs = log_map(student).clamp_min(_LEAST_LOGARITHM), teacher.map()
        heads, count = ours.shape[1], ours[:, 0, :, 0].numel()
        cost = ours.new_zeros(heads, theirs.shape[1])
        # One image at a time: the products want contiguous rows, and copies of them are large.
        for one, other in zip(ours, theirs, strict=True):
            cost -= one.flatten(1) @ other.flatten(1).mT
            cost += torch.xlogy(other, other).sum((1, 2))
        return cost / count


def best_heads(cost: Float[Tensor, "h g"]) -> Int64[Tensor, " h"]:
    """The teacher head of each student head, so that the sum of costs is smallest and no teacher head is used twice.

    The Hungarian method. Where the student has more heads, each teacher head is used as evenly as that allows: at most
    ⌈h/g⌉ times.
    """
    heads, others = cost.shape
    copies = -(-heads // others)
    _, columns = _assignment()(cost.double().cpu().repeat(1, copies).numpy())
    return torch.from_numpy(columns % others).to(cost.device)


def _assignment() -> Callable[[NDArray[np.float64]], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    # Loaded where heads are matched: it takes longer than the rest of the methods.
    with needing("matching the heads of teacher and student", "scipy"):
        from scipy.optimize import linear_sum_assignment
    return linear_sum_assignment


def in_turn(heads: int, others: int, device: torch.device | None = None) -> Int64[Tensor, " h"]:
    """For each of some heads one of the others, evenly and in order."""
    return torch.arange(heads, device=device) * others // heads


def select_heads(attention: Attention, heads: Sequence[int] | Tensor) -> Attention:
    """The same call with some of its heads, in the order given."""
    place = _place(heads)

    def chosen(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[:, place]

    bias = attention.bias
    if bias is not None and bias.ndim >= 3 and bias.shape[-3] > 1:
        bias = bias[..., place, :, :]
    return replace(
        attention,
        query=chosen(attention.query),
        key=chosen(attention.key),
        value=chosen(attention.value),
        bias=bias,
        weights=chosen(attention.weights),
    )


class HeadMatching(nn.Module):
    """Which teacher head each head of a student learns from, per pair of layers.

    Found once, on the first batch in training mode, and kept with the parts of the distiller; every process finds the
    same, from the mean of all their batches. Until then heads are paired in turn, evenly and in order.

    Args:
        layers: number of pairs of layers.
        heads: of the student.
        teacher_heads: of the teacher.
        mixed: whether each student head learns from a mixture of the teacher's heads. Its weights are a softmax over
            them, are learned, and start at 0.9 for the head that was found.

    Attributes:
        order: number of the teacher head per layer and student head; −1 until it is found.

    Raises:
        ValueError: scipy, which finds the matching, is not installed.
    """

    order: Tensor

    def __init__(self, layers: int, heads: int, teacher_heads: int, *, mixed: bool) -> None:
        super().__init__()
        _assignment()
        self.register_buffer("order", torch.full((layers, heads), -1))
        self.teacher_heads = teacher_heads
        # Added to the start, so that weight decay leads back to it.
        self.mixing = nn.Parameter(torch.zeros(layers, heads, teacher_heads)) if mixed else None

    # Assignments are found outside of torch; compiled code runs this part as it is.
    @left_uncompiled
    def find(self, costs: Callable[[], Sequence[Tensor]]) -> None:
        """Find the matching unless it is known; in training mode only, in which all processes call it together.

        Args:
            costs: per pair of layers, (student heads, teacher heads).
        """
        if not self.training or bool((self.order >= 0).all()):
            return
        every = torch.stack(list(costs()))
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(every)
        with torch.no_grad():
            self.order.copy_(torch.stack([best_heads(cost) for cost in every]))

    def forward(self, layer: int, teacher: Attention) -> Attention:
        """The teacher's call with the heads that the student's learn from: chosen ones, or their mixed map."""
        order = torch.where(
            self.order[layer] < 0,
            in_turn(self.order.shape[1], self.teacher_heads, self.order.device),
            self.order[layer],
        )
        if self.mixing is None:
            return select_heads(teacher, order)
        start = _start_logit(self.teacher_heads) * nn.functional.one_hot(order, self.teacher_heads)
        weights = (self.mixing[layer] + start).softmax(-1)
        maps = teacher.map()
        # A map stays float32 where the student computes with it under autocast.
        with torch.autocast(maps.device.type, enabled=False):
            mixed = torch.einsum("hg,bgnm->bhnm", weights.to(maps.dtype), maps)
        return only_map(teacher, mixed)


class LayerMixing(nn.Module):
    """Which mixture of a teacher's layers each layer of a student learns from.

    The weights are a softmax over all of the teacher's layers, are learned, and start at 0.9 for the partner.

    Args:
        partners: number of the teacher layer that each student layer is paired with.
        teacher_layers: how many the teacher has.
    """

    start: Tensor

    def __init__(self, partners: Sequence[int], teacher_layers: int) -> None:
        super().__init__()
        start = _start_logit(teacher_layers) * nn.functional.one_hot(torch.tensor(partners), teacher_layers).float()
        self.register_buffer("start", start, persistent=False)
        self.mixing = nn.Parameter(torch.zeros(len(partners), teacher_layers))

    def forward(self, layer: int, teachers: Sequence[Attention]) -> Attention:
        """The mixed map for one layer of the student; all of the teacher's over the same heads and tokens."""
        weights = (self.mixing[layer] + self.start[layer]).softmax(-1)
        mixed: Tensor | None = None
        for weight, teacher in zip(weights, teachers, strict=True):
            maps = teacher.map()
            mixed = weight.to(maps.dtype) * maps if mixed is None else mixed + weight.to(maps.dtype) * maps
        assert mixed is not None
        return only_map(teachers[0], mixed)


class Matching(nn.Module):
    """What a method learns or finds beside the student.

    Args:
        heads: which of the teacher's heads each head learns from.
        layers: which of its layers each layer does.
    """

    def __init__(self, heads: HeadMatching | None, layers: LayerMixing | None) -> None:
        super().__init__()
        self.heads = heads
        self.layers = layers


def _start_logit(count: int) -> float:
    return log(_START * (count - 1) / (1 - _START)) if count > 1 else 0.0


def _place(heads: Sequence[int] | Tensor) -> slice | Tensor | list[int]:
    """Neighbouring heads as a slice, which copies nothing."""
    if isinstance(heads, Tensor):
        return heads
    consecutive = list(heads) == list(range(heads[0], heads[0] + len(heads))) and heads[0] >= 0
    return slice(heads[0], heads[0] + len(heads)) if consecutive else list(heads)
