"""What is refused of the images of a batch: everything but their values, which nobody can judge."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from attention_transfer.errors import InputError

# Of pictures, transparency among them.
_MOST_CHANNELS = 4


def check_images(images: Any, channels: int) -> None:
    """Refuse what are no images of the kind that the distiller was built with, whatever their number and size.

    Args:
        images: of the batch.
        channels: of the example.

    Raises:
        InputError: says what is wanted, and how to make it of what was given.
    """
    wanted = f"(batch, {channels}, height, width)"
    require_dense("images", images, f"of shape {wanted}", "torch.stack(images)")
    shape = tuple(images.shape)
    check_floating("images", images)
    if images.ndim != 4:
        how = ""
        if images.ndim == 3 and channels in (shape[0], shape[2]):
            one = "images" if shape[0] == channels else "images.permute(2, 0, 1)"
            how = f": give {one}[None], a batch of one"
        raise InputError(f"images must be of shape {wanted}, not {shape}{how}")
    if shape[1] != channels:
        how = ": channels come last here, so give images.permute(0, 3, 1, 2)" if shape[3] == channels else ""
        raise InputError(f"images must have {channels} channels, {wanted}, not {shape[1]} in shape {shape}{how}")
    if not shape[0]:
        raise InputError(f"images must be at least one, not none in shape {shape}: leave out empty batches")


def check_floating(name: str, images: Tensor) -> None:
    """Refuse images of numbers that no network computes with.

    Args:
        name: of the argument.
        images: of any type.

    Raises:
        InputError: for whole and complex numbers, and those of less than two bytes, which are for storage.
    """
    if not images.is_floating_point() or images.dtype.itemsize < 2:
        raise InputError(
            f"{name} must be floating point, not {images.dtype}: normalise as the student expects it, for bytes "
            f"beginning with {name}.float() / 255"
        )


def require_dense(name: str, value: Any, what: str, how: str) -> None:
    """Refuse what is no tensor, or none with one number after the other.

    Args:
        name: of the argument.
        value: that was given.
        what: is wanted, after the word tensor.
        how: to make a tensor of a list.

    Raises:
        InputError: for anything else than a dense tensor.
    """
    if not isinstance(value, Tensor):
        first = next(iter(cast("Sequence[Any]", value)), None) if isinstance(value, list | tuple) else None
        if type(value).__module__ == "numpy":
            how = f"torch.from_numpy({name})"
        elif isinstance(first, Tensor) and first.ndim != 3:
            how = f"{name}[0], or what else of it is meant"
        elif not isinstance(value, list | tuple):
            how = "the tensor itself"
        raise InputError(f"{name} must be a tensor {what}, not a value of type {type(value).__name__}: give {how}")
    if value.layout is not torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.").lstrip("_")
        raise InputError(f"{name} must be a dense tensor {what}, not a {kind} one: give {name}.to_dense()")


def explained(
    error: BaseException | None, given: Mapping[str, Tensor | None], networks: Mapping[Any, nn.Module]
) -> InputError | None:
    """What a network's own error means, where it comes from what a batch was given as; None for any other.

    Asked afterwards, because a network may bring its images to another device or type by itself.

    Args:
        error: that was raised in a step.
        given: arguments by their names, first of all the images.
        networks: that ran, by their role; first of all the student.
    """
    words, (name, images) = str(error), next(iter(given.items()))
    assert images is not None
    if "more than 1 value per channel" in words and len(images) == 1:
        return InputError(
            "one image is too few for batch norms in training, which need the statistics of several: give at least two "
            "images in every batch, for a DataLoader with drop_last=True"
        )
    if "channels" in words and images.shape[1] > _MOST_CHANNELS >= images.shape[3]:
        return InputError(
            f"{name} must be of shape (batch, channels, height, width), not {tuple(images.shape)}: channels come last "
            f"here, so give {name}.permute(0, 3, 1, 2)"
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
        if value is not None and value.device != images.device:
            return InputError(
                f"{other} must be on the device of the images, {images.device}, not on {value.device}: give "
                f"{other}.to({name}.device)"
            )
    for role, network in networks.items():
        types = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
        if types and images.dtype not in types:
            there = min(map(str, types))
            if role == "teacher":
                how = f"teacher.to({images.dtype})"
                return InputError(f"the teacher computes in {there}, and its images are {images.dtype}: give {how}")
            return InputError(
                f"{name} must be {there}, the type of the {role}, not {images.dtype}: give {name}.to({there})"
            )
    return None
