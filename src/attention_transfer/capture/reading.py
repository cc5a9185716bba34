"""What is read of a network in one run, and what a method may ask of it beside values, logits and attention.

A method that wants something else of a network asks for a provider of its own; a `ReadNetwork` is what that may know:

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class NumberOfWeights(Provider[int]):
...     def bound(self, network: ReadNetwork, taps: Sequence[Tap]) -> Callable[["Reading"], int]:
...         count = sum(parameter.numel() for parameter in network.model.parameters())
...         return lambda reading: count
>>> from attention_transfer.methods import Request
>>> Request(provide=(NumberOfWeights(),)).anything
True
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture.attention import Attention
from attention_transfer.capture.tap import Tap, spatial


# Compilers cannot call `dict[Provider[Any], Any]`.
def _none() -> "dict[Provider[Any], Any]":
    return {}


@dataclass(frozen=True)
class Reading:
    """What was read while a network ran once.

    Example:
        >>> import torch
        >>> tap = Tap("blocks.0", layout="tokens", prefix_tokens=1)
        >>> reading = Reading(torch.zeros(2, 10), {tap: torch.rand(2, 1 + 16, 32)}, image=(32, 32))
        >>> reading.spatial(tap).shape
        torch.Size([2, 32, 4, 4])

    Args:
        logits: in its output; None where it was stopped after the last tap, or has none and nothing reads them.
        values: one per tap of a value, as the network laid it out.
        attention: one per tap of an attention layer, as the network computed it itself, replaced or not.
        image: height and width of the images.
        computed: what was computed for providers while the network ran, by what asked for it.
        output: what it returned, as it came; None where it was stopped, or its values come from a cache.
    """

    logits: Tensor | None
    values: Mapping[Tap, Tensor]
    attention: Mapping[Tap, Attention] = field(default_factory=dict[Tap, Attention])
    image: tuple[int, int] | None = None
    computed: "Mapping[Provider[Any], Any]" = field(default_factory=_none)
    output: Any = None

    def spatial(self, tap: Tap) -> Float[Tensor, "b c h w"]:
        """What was read at a place as channels, rows and columns, see `spatial`."""
        return spatial(self.values[tap], tap, self.image)


Provided = TypeVar("Provided")


class ReadNetwork(Protocol):
    """One network of a distiller, as far as a provider may know it.

    Attributes:
        model: the network.
        role: `teacher` or `student`.
        head: module path of the linear layer that makes its logits; None where there is no single one.
    """

    model: nn.Module
    role: str
    head: str | None

    def receives(self, images: Tensor) -> Tensor:
        """The student's images as this network receives them."""
        ...

    def precise(self, value: Tensor) -> Tensor:
        """A parameter of it in the precision of the losses."""
        ...

    @property
    def expects(self) -> object:
        """How its images are normalised, comparable; None where it was not said."""
        ...


class Provider(ABC, Generic[Provided]):
    """Something that a method reads of a network beside taps, logits and attention; a frozen dataclass.

    A method asks for it in `Request.provide`, and finds it in every step as `observed[provider]`.
    """

    @abstractmethod
    def bound(self, network: ReadNetwork, taps: Sequence[Tap]) -> Callable[[Reading], Provided]:
        """Prepare it when the distiller is built.

        Args:
            network: that is read.
            taps: where the method that asks reads it.

        Returns:
            What gives it, from what was read when the network ran.
        """

    def prove(self, network: ReadNetwork, taps: Sequence[Tap], images: Tensor) -> None:
        """Prove on noise, before anything else runs, that it can be had.

        Args:
            network: that is read.
            taps: where the method that asks reads it.
            images: as the student receives them.

        Raises:
            CaptureError: it cannot.
        """
        del network, taps, images
