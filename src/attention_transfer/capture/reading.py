"""What is read of a network in one run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from attention_transfer.capture.attention import Attention
from attention_transfer.capture.tap import Tap, spatial


# Compilers cannot call `dict[str, Tensor]`.
def _none() -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Reading:
    """What was read while a network ran once.

    Args:
        logits: its result; None where it was stopped after the last tap.
        values: one per tap of a value, as the network laid it out.
        attention: one per tap of an attention layer, as the network computed it itself, replaced or not.
        image: height and width of the images.
        gradients: with respect to the image, by their titles, see `InputGradient`.
    """

    logits: Tensor | None
    values: Mapping[Tap, Tensor]
    attention: Mapping[Tap, Attention] = field(default_factory=dict[Tap, Attention])
    image: tuple[int, int] | None = None
    gradients: Mapping[str, Tensor] = field(default_factory=_none)

    def spatial(self, tap: Tap) -> Float[Tensor, "b c h w"]:
        """What was read at a place as channels, rows and columns, see `spatial`."""
        return spatial(self.values[tap], tap, self.image)
