"""One attention call of a network: what it was asked, and what it is answered with.

>>> import torch
>>> query = key = value = torch.rand(2, 3, 5, 8)  # images, heads, tokens, channels of a head
>>> attention = Attention(query, key, value, scale=8**-0.5)
>>> attention.map().shape, attention.num_heads
(torch.Size([2, 3, 5, 5]), 3)
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attention_transfer.errors import InputError


@dataclass(frozen=True)
class Attention:
    """Attention as one layer of a network computes it: softmax(scale · query·keyᵀ + bias) · value.

    What is read from a fused kernel has query, key and value and no weights. Where a network writes its softmax out by
    hand, only the weights can be read.

    Args:
        query: what each token looks for, after norms and rotary embeddings; with `key`, or neither.
        key: what each token offers.
        value: what each token hands on; None where it was not read.
        scale: of the logits.
        bias: added to the logits, broadcastable to (batch, heads, queries, keys); -inf where nothing may be seen.
        weights: the map itself; where it is given, it is what counts.
        dropout: probability with which the layer drops each weight of the map.
        prefix_tokens: number of tokens before those of the patches (class, distillation, registers).
        grid: rows and columns of the patches; None means a square grid.
        class_tokens: 1 if the first of the tokens before the patches is a class token, 0 if there is none; None where
            unknown.
        window_shift: as in `Tap`.
        padded: same as for `window_shift`.
        in_rows: False where the layout of its patches is unknown: in images that are no squares, or an order of their
            own.
    """

    query: Float[Tensor, "b h n d"] | None = None
    key: Float[Tensor, "b h m d"] | None = None
    value: Float[Tensor, "b h m e"] | None = None
    scale: float = 1.0
    bias: Float[Tensor, "*bias"] | None = None
    weights: Float[Tensor, "b h n m"] | None = None
    dropout: float = 0.0
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = None
    class_tokens: int | None = None
    window_shift: tuple[int, int] | None = None
    padded: bool = False
    in_rows: bool = True

    def logits(self) -> Float[Tensor, "b h n m"]:
        """What the softmax is taken of, in float32 or better.

        Raises:
            ValueError: where only the map was read.
        """
        if self.query is None or self.key is None:
            raise InputError("only the map of this layer was read, not what its softmax is taken of")
        query, key = _precise(self.query), _precise(self.key)
        # Under autocast the product would be in half precision again.
        with torch.autocast(query.device.type, enabled=False):
            logits = (query * self.scale) @ key.transpose(-2, -1)
            return logits if self.bias is None else logits + self.bias.to(logits.dtype)

    def map(self) -> Float[Tensor, "b h n m"]:
        """How much each query takes from each key, explicitly, in float32 or better; rows sum to 1."""
        return _precise(self.weights) if self.weights is not None else self.logits().softmax(-1)

    def result(self) -> Float[Tensor, "b h n e"]:
        """What the layer computes, in the precision of its values; by the fused kernel unless the map is given.

        Raises:
            ValueError: without values, or with neither a map nor query and key.
        """
        if self.value is None:
            raise InputError("the values of this layer were not read")
        if self.weights is not None:
            return functional.dropout(self.weights.to(self.value.dtype), self.dropout) @ self.value
        if self.query is None or self.key is None:
            raise InputError("attention needs its map, or query and key")
        kind = self.value.dtype
        return functional.scaled_dot_product_attention(
            self.query.to(kind),
            self.key.to(kind),
            self.value,
            attn_mask=None if self.bias is None else self.bias.to(kind),
            dropout_p=self.dropout,
            scale=self.scale,
        )

    def detach(self) -> "Attention":
        """The same call as a constant."""
        return replace(self, **{name: tensor.detach() for name, tensor in self.tensors.items()})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that were read, by the names of their fields."""
        found = {name: getattr(self, name) for name in ("query", "key", "value", "bias", "weights")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Batch, heads, queries and keys."""
        if self.weights is not None:
            batch, heads, queries, keys = self.weights.shape
        else:
            assert self.query is not None
            assert self.key is not None
            batch, heads, queries, _ = self.query.shape
            keys = self.key.shape[2]
        return batch, heads, queries, keys

    @property
    def num_heads(self) -> int:
        """Number of heads."""
        return self.shape[1]

    @property
    def num_tokens(self) -> int:
        """Number of queries."""
        return self.shape[2]

    @property
    def num_keys(self) -> int:
        """Number of keys that each query attends to."""
        return self.shape[3]


def _precise(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))
