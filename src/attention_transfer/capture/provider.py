"""What a method may ask of a network beside the values, logits and attention that everybody reads."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn

from attention_transfer.capture.reading import Reading
from attention_transfer.capture.tap import Tap

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
