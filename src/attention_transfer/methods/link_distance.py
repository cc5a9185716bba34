"""How far combinations of attention maps are from the channels that they are linked to."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Form = Literal["mean-square", "norm"]

_LEAST_NORM = 1e-12  # as in torch's normalize
# Numbers that are made on the way at a time. On a CPU they stay in the cache of a core, which is three times
# as fast as all images at once; an accelerator wants more work per kernel.
_CPU_PIECE = 2**18
_DEVICE_PIECE = 2**24


def link_distance(
    maps: Float[Tensor, "b n p"],
    weight: Float[Tensor, "c n"],
    bias: Float[Tensor, " c"],
    target: Float[Tensor, "b c p"],
    form: Form = "mean-square",
) -> Float[Tensor, ""]:
    """Distance of unit-norm combinations of maps from unit-norm targets: mean over images, sum over channels.

    Eq. 4 and 5 of Jin & Choi (arXiv:2211.13852): A⁺_c = Σ_n w_cn A_n + b_c, then A⁺_c/‖A⁺_c‖ − B_c/‖B_c‖. A map that
    is zero everywhere has no direction: it stays zero and passes no gradient on.

    The combinations, which are many, are made a few images at a time and not kept, or not made at all: gradients of
    maps, weight and bias are computed with the value.

    Args:
        maps: of the student, heads of all linked layers.
        weight: of the links.
        bias: likewise.
        target: channels of the teacher over the same positions, a constant.
        form: `mean-square` is the mean over positions of the squared difference, `norm` its L2 norm.
    """
    return _LinkDistance.apply(maps, weight, bias, target, form)


class _LinkDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, target: Tensor, form: Form) -> Tensor:
        wanted = any(ctx.needs_input_grad[:3])
        gradients = [torch.zeros_like(each) for each in (maps, weight, bias)] if wanted else []
        # An accelerator has the bandwidth for combinations, and is slow in float64 or has none.
        fewer_maps = maps.shape[1] + 1 < maps.shape[2] and maps.device.type == "cpu"
        combined = _Products if fewer_maps else _Combinations
        sums: list[Tensor] = []
        for some in _pieces(target, maps.shape[1] + 1 if fewer_maps else maps.shape[2]):
            ours = combined(maps[some], weight, bias, target[some])
            their_norm = _norm(target[some])
            norm, cosine = ours.norm, ours.product / (ours.norm * their_norm)
            squares = (norm > _LEAST_NORM).to(norm) + (their_norm > _LEAST_NORM).to(norm)
            square = (squares - 2 * cosine).clamp_min(0)
            if form == "mean-square":
                value, slope = square / target.shape[2], -2 / target.shape[2]
            else:
                value = square.sqrt()
                # Where both are the same, any slope will do; with zero they stay.
                slope = torch.where(value > 0, -1 / value, 0)
            sums.append(value.sum())
            if wanted:
                slope = slope / len(target) * (norm > _LEAST_NORM).to(norm)
                found = ours.gradients(-slope * cosine / norm.square(), slope / (norm * their_norm))
                gradients[0][some] = found[0]
                gradients[1] += found[1]
                gradients[2] += found[2]
        ctx.save_for_backward(*gradients)
        return torch.stack(sums).sum() / len(target)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        return *(gradient * each if each is not None else None for each in ctx.saved_tensors), None, None


class _Combinations:
    """Combinations of the maps of some images, A⁺ = W·A + b, written out.

    Args:
        maps: of these images.
        weight: W.
        bias: b.
        target: channels B.

    Attributes:
        norm: ‖A⁺‖ of each combination.
        product: A⁺·B, summed over positions.
    """

    def __init__(
        self,
        maps: Float[Tensor, "b n p"],
        weight: Float[Tensor, "c n"],
        bias: Float[Tensor, " c"],
        target: Float[Tensor, "b c p"],
    ) -> None:
        self._maps, self._weight, self._target = maps, weight, target
        self._ours = torch.baddbmm(
            bias[:, None].expand(len(maps), -1, 1), weight.expand(len(maps), *weight.shape), maps
        )
        self.norm: Float[Tensor, "b c"] = _norm(self._ours)
        self.product: Float[Tensor, "b c"] = (self._ours * target).sum(-1)

    def gradients(self, own: Float[Tensor, "b c"], theirs: Float[Tensor, "b c"]) -> tuple[Tensor, Tensor, Tensor]:
        """Of maps, W and b, where that of the combinations is own·A⁺ + theirs·B; the combinations are used up."""
        d_ours = self._ours.mul_(own[:, :, None]).addcmul_(self._target, theirs[:, :, None])
        return self._weight.mT @ d_ours, (d_ours @ self._maps.mT).sum(0), d_ours.sum((0, 2))


class _Products:
    """The same without making combinations: of fewer maps than positions, their products with each other and with the
    channels are smaller, ‖A⁺‖² = W̃·(Ã·Ãᵀ)·W̃ᵀ and A⁺·B = W̃·(Ã·Bᵀ), with b as the weight of a map of ones."""

    def __init__(
        self,
        maps: Float[Tensor, "b n p"],
        weight: Float[Tensor, "c n"],
        bias: Float[Tensor, " c"],
        target: Float[Tensor, "b c p"],
    ) -> None:
        self._target = target
        self._maps = torch.cat([maps, maps.new_ones(len(maps), 1, maps.shape[2])], 1)
        self._weight = torch.cat([weight, bias[:, None]], 1).mT
        # The square of what nearly cancels would keep but half of its digits.
        exact = self._maps.double()
        own = (exact @ exact.mT) @ self._weight.double()
        squares = (own * self._weight).sum(1)
        self._own, self._theirs = own.to(maps.dtype), self._maps @ target.mT
        self.norm: Float[Tensor, "b c"] = squares.clamp_min(0).sqrt().to(maps.dtype).clamp_min(_LEAST_NORM)
        self.product: Float[Tensor, "b c"] = (self._theirs * self._weight).sum(1)

    def gradients(self, own: Float[Tensor, "b c"], theirs: Float[Tensor, "b c"]) -> tuple[Tensor, Tensor, Tensor]:
        """As of `_Combinations`."""
        own, theirs = own[:, None], theirs[:, None]
        d_weight = (theirs * self._theirs).add_(own * self._own).sum(0)
        among_maps = (own * self._weight) @ self._weight.mT
        d_maps = (theirs * self._weight) @ self._target + among_maps @ self._maps
        return d_maps[:, :-1], d_weight[:-1].mT, d_weight[-1]


def _norm(values: Float[Tensor, "b c p"]) -> Float[Tensor, "b c"]:
    return torch.linalg.vector_norm(values, dim=-1).clamp_min(_LEAST_NORM)


def _pieces(target: Float[Tensor, "b c p"], width: int) -> Iterator[slice]:
    """Stretches of images.

    Args:
        target: of all.
        width: numbers that each channel of an image comes to on the way.
    """
    count, channels = target.shape[:2]
    piece = _CPU_PIECE if target.device.type == "cpu" else _DEVICE_PIECE
    # A compiled graph would hold every piece by itself.
    step = count if torch.compiler.is_compiling() else max(1, piece // (channels * width))
    for start in range(0, count, step):
        yield slice(start, start + step)
