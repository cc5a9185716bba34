"""What a network's own error means, where it comes from what a batch was given as."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attention_transfer.capture.outputs import first_image
from attention_transfer.errors import InputError

# Of pictures, transparency among them.
_MOST_CHANNELS = 4

_ERRORS = (RuntimeError, ValueError, AssertionError)


@contextmanager
def explaining(given: Mapping[str, Any], networks: Mapping[Any, nn.Module], size: tuple[int, ...]) -> Generator[None]:
    """Errors raised inside are explained where they come from what was given; all others stay what they are.

    Args:
        given: arguments by their names, first of all the images.
        networks: that run, by their role; first of all the student.
        size: height and width of the images that the distiller was built with.

    Raises:
        InputError: in place of the error, which is its cause.
    """
    try:
        yield
    except _ERRORS as error:
        refused = None if isinstance(error, InputError) else explained(error, given, networks)
        if refused is None and not isinstance(error, InputError | torch.OutOfMemoryError):
            refused = _of_another_size(error, given, size)
        if refused is None:
            raise
        raise refused from error


def explained(
    error: BaseException | None, given: Mapping[str, Any], networks: Mapping[Any, nn.Module]
) -> InputError | None:
    """What a network's own error means, where it comes from what a batch was given as; None for any other.

    Asked afterwards, because a network may bring its images to another device or type by itself.

    Args:
        error: that was raised in a step.
        given: arguments by their names, first of all the images.
        networks: that ran, by their role; first of all the student.
    """
    words, (name, batch) = str(error), next(iter(given.items()))
    images = first_image(batch)
    if "more than 1 value per channel" in words and len(batch) == 1:
        return InputError(
            "one image is too few for batch norms in training, which need the statistics of several: give at least two "
            "images in every batch, for a DataLoader with drop_last=True"
        )
    if "channels" in words and images.ndim == 4 and images.shape[1] > _MOST_CHANNELS >= images.shape[3]:
        return InputError(
            f"{name} must be of shape (batch, channels, height, width), not {tuple(images.shape)}: channels come last "
            f"here, so give {name}.permute(0, 3, 1, 2)"
        )
    if "nference tensor" in words:
        of_inference = [
            f"{other}.clone()" for other, value in given.items() if isinstance(value, Tensor) and value.is_inference()
        ]
        if of_inference:
            return InputError(
                f"{name} that were made in torch.inference_mode() cannot be learned from: make them under "
                f"torch.no_grad(), or give {', '.join(of_inference)}"
            )
    if isinstance(error, torch.OutOfMemoryError) or not ("device" in words or "type" in words):
        return None
    for role, network in networks.items():
        of_network = {parameter.device for parameter in network.parameters()}
        if of_network and images.device not in of_network:
            there = min(map(str, of_network))
            return InputError(
                f"{name} must be on the device of the {role}, {there}, not on {images.device}: give "
                f"{name}.to({there!r}), or move the distiller with its method `to`, which takes both networks along"
            )
    for other, value in given.items():
        if isinstance(value, Tensor) and value.device != images.device:
            return InputError(
                f"{other} must be on the device of the images, {images.device}, not on {value.device}: give "
                f"{other}.to({name}.device)"
            )
    for role, network in networks.items():
        types = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
        if types and images.dtype not in types:
            there = min(map(str, types))
            if role != "student":
                how = f"teacher.to({images.dtype})"
                return InputError(f"the {role} computes in {there}, and its images are {images.dtype}: give {how}")
            return InputError(
                f"{name} must be {there}, the type of the {role}, not {images.dtype}: give {name}.to({there})"
            )
    return None


def _of_another_size(error: BaseException, given: Mapping[str, Any], size: tuple[int, ...]) -> InputError | None:
    """What is said of images of a size that was not proved."""
    name, images = next(iter(given.items()))
    if not isinstance(images, Tensor) or tuple(images.shape[2:]) == size:
        return None
    height, width = images.shape[-2:]
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return InputError(
        f"{name} of {height}×{width} pixels cannot be used here ({first:.100}): give them in the {size[-2]}×{size[-1]} "
        "of the example that the distiller was built with, or build it with an example of their size"
    )
