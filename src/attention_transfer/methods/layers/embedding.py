"""The one vector that a network makes of an image: what its last layer takes."""

from jaxtyping import Float
from torch import Tensor

from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.models.introspection.description import Description


def embedding_tap(network: Description, role: str, layer: str | None = None) -> Tap:
    """Where that vector is read.

    Args:
        network: teacher or student.
        role: which, for messages.
        layer: a module path given by the user, in place of what the head takes; its output, averaged over positions.

    Raises:
        ValueError: for a network of which neither the linear head nor any stage is known.
    """
    if layer is not None:
        return network.tap(layer)
    if network.head is not None:
        return Tap(network.head, "input", "raw")
    if network.stages:
        return network.stages[-1].output
    raise InputError(
        f"neither a linear head nor stages were found in the {role}: name the module whose output, averaged over "
        f"positions, is to be compared with {role}_layer="
    )


def embedding(value: Tensor, role: str) -> Float[Tensor, "b c"]:
    """What was read there as one vector per image, in float32 or better; averaged over positions where it has any.

    Args:
        value: (batch, channels), or (batch, channels, height, width).
        role: of the network, for messages.

    Raises:
        ValueError: for any other shape.
    """
    if value.ndim not in (2, 4):
        raise InputError(
            f"the {role}'s head takes a value of shape {tuple(value.shape)}, not one vector per image: name another "
            f"module with {role}_layer="
        )
    vectors = at_least_float32(value)
    return vectors.mean((2, 3)) if vectors.ndim == 4 else vectors
