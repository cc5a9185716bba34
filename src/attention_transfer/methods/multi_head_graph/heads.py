"""The multi-head attention network that learns how a teacher goes from one layer to the next, over a batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.methods.layers.maps import at_least_float32, unit
from attention_transfer.parallel import agreed


class GraphHeads(nn.Module):
    """Attention heads and estimator of one pair of layers.

    Section 3.2 of Lee & Song (BMVC 2019, arXiv:1907.02226). The scores S_a[i, j] = θ_a(back_i)·φ_a(front_j) say which
    images' front vectors tell the back vector of image i; the estimator makes it from them.

    Args:
        front: width of the earlier layer.
        back: width of the later one.
        heads: A, at least 1. θ, φ and the estimator's first layer map to (front + back) // 2 channels.
        scaled: divide scores by the root of the channels of a head.
    """

    def __init__(self, front: int, back: int, heads: int, *, scaled: bool = False) -> None:
        super().__init__()
        width = (front + back) // 2
        self.heads, self.factor = heads, width**-0.5 if scaled else 1.0
        self.query = _NormalisedLinear(back, width * heads)
        self.key = _NormalisedLinear(front, width * heads)
        self.values = _NormalisedLinear(front, width)
        self.estimate = nn.Linear(width * heads, back)
        nn.init.kaiming_normal_(self.estimate.weight, mode="fan_out")
        nn.init.zeros_(self.estimate.bias)

    def scores(
        self, front: Float[Tensor, "b f"], back: Float[Tensor, "b g"], *, frozen: bool = False
    ) -> Float[Tensor, "a b b"]:
        """How much each head relates each image (row) to each (column).

        Args:
            front: vectors of the earlier layer.
            back: vectors of the later one.
            frozen: weights as constants, batch norm with its running statistics, whatever the mode.
        """
        queries = self.query(back, frozen=frozen).unflatten(1, (-1, self.heads))
        keys = self.key(front, frozen=frozen).unflatten(1, (-1, self.heads))
        return self.factor * torch.einsum("ida,jda->aij", queries, keys)

    def estimated(
        self, front: Float[Tensor, "b f"], scores: Float[Tensor, "a b b"], *, drop: bool
    ) -> Float[Tensor, "b g"]:
        """The later layer's vectors, of unit length, as the graph and the earlier layer's vectors tell them.

        Args:
            front: vectors of the earlier layer.
            scores: as `scores` gives them.
            drop: leave out about half of the heads, drawn anew for each image.
        """
        graphs = scores.softmax(2)
        if drop:
            graphs = graphs * kept_heads(scores.shape[0], scores.shape[1], scores)
        values = self.values(front).relu()
        gathered = torch.einsum("aij,jd->iad", graphs, values)
        return unit(self.estimate(gathered.flatten(1)))

    def loss(self, front: Float[Tensor, "b f"], back: Float[Tensor, "b g"], *, drop: bool) -> Float[Tensor, ""]:
        """How far the estimated vectors point away from the later layer's own: mean of 1 − cosine."""
        estimated = self.estimated(front, self.scores(front, back), drop=drop)
        return (1 - (estimated * back).sum(1)).mean()


class Adapter(nn.Sequential):
    """A 1×1 convolution with batch norm that brings a student's features to the teacher's width.

    Args:
        student: channels that come.
        teacher: channels that are wanted.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__(nn.Conv2d(student, teacher, 1, bias=False), nn.BatchNorm2d(teacher))


class GraphParts(nn.Module):
    """All that the method learns, and of which teacher.

    Args:
        heads: one for each graph.
        adapters: by the number of the layer, where the widths differ.
        teacher: fingerprint of the teacher's weights.
        reading: fingerprint of how it is read.
    """

    def __init__(
        self, heads: Sequence[GraphHeads], adapters: dict[int, Adapter], teacher: bytes, reading: bytes
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.adapters = nn.ModuleDict({str(number): adapter for number, adapter in adapters.items()})
        self.register_buffer("teacher", torch.tensor(list(teacher), dtype=torch.uint8))
        self.register_buffer("reading", torch.tensor(list(reading), dtype=torch.uint8))

    @property
    def learning(self) -> bool:
        """Whether the heads learn now."""
        return any(parameter.requires_grad for parameter in self.heads.parameters())

    def graph(self, number: int) -> GraphHeads:
        """The heads of one graph, counted from 0."""
        heads = self.heads[number]
        assert isinstance(heads, GraphHeads)
        return heads

    def adapted(self, number: int, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """A student's features in the teacher's width; in float32 at least where something is learned for it.

        Args:
            number: of the layer, counted from 0.
            features: of the student there.
        """
        name = str(number)
        return self.adapters[name](at_least_float32(features)) if name in self.adapters else features


def kept_heads(heads: int, images: int, like: Tensor) -> Float[Tensor, "a b 1"]:
    """1 for the heads that are kept of each image, 0 for the others.

    Those whose draw from a normal distribution lies above the mean of the image's draws. One head alone is always kept.

    Args:
        heads: how many there are.
        images: how many there are.
        like: gives type and device.
    """
    if heads == 1:
        return like.new_ones(1, images, 1)
    draws = agreed(torch.randn(heads, images, 1, dtype=like.dtype, device=like.device))
    return (draws > draws.mean(0, keepdim=True)).to(like.dtype)


class _NormalisedLinear(nn.Module):
    """A linear layer without bias, and batch norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        nn.init.kaiming_normal_(self.linear.weight, mode="fan_out")

    def forward(self, values: Float[Tensor, "b i"], *, frozen: bool = False) -> Float[Tensor, "b o"]:
        if not frozen:
            return self.norm(self.linear(values))
        mapped = functional.linear(values, self.linear.weight.detach())
        norm = self.norm
        return functional.batch_norm(
            mapped, norm.running_mean, norm.running_var, norm.weight.detach(), norm.bias.detach(), eps=norm.eps
        )
