"""What is refused of the images of a batch: everything but their values, which nobody can judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from attention_transfer.capture import Images
from attention_transfer.errors import InputError


@dataclass(frozen=True)
class Kind:
    """What all images of a training have in common.

    Args:
        channels: of each.
        dimensions: of a batch: 4 of images, 5 of volumes.
        listed: whether they are in a list, each of its own size.
    """

    channels: int
    dimensions: int = 4
    listed: bool = False

    @classmethod
    def of(cls, example: Images) -> "Kind":
        """That of an example."""
        if isinstance(example, Tensor):
            return cls(example.shape[1], example.ndim)
        return cls(example[0].shape[0], listed=True)


def check_images(images: Any, kind: Kind) -> None:
    """Refuse what are no images of the kind that the distiller was built with, whatever their number and size.

    Args:
        images: of the batch.
        kind: of the example.

    Raises:
        InputError: says what is wanted, and how to make it of what was given.
    """
    channels = kind.channels
    if kind.listed:
        _check_list(images, channels)
        return
    sides = "time, height, width" if kind.dimensions > 4 else "height, width"
    wanted = f"(batch, {channels}, {sides})"
    require_dense("images", images, f"of shape {wanted}", "torch.stack(images)")
    shape = tuple(images.shape)
    check_floating("images", images)
    if images.ndim != kind.dimensions:
        how = ""
        if images.ndim == 3 and channels in (shape[0], shape[2]):
            one = "images" if shape[0] == channels else "images.permute(2, 0, 1)"
            how = f": give {one}[None], a batch of one"
        raise InputError(f"images must be of shape {wanted}, not {shape}{how}")
    if shape[1] != channels:
        first = "permute(0, 3, 1, 2)" if images.ndim == 4 else "movedim(-1, 1)"
        how = f": channels come last here, so give images.{first}" if shape[-1] == channels else ""
        raise InputError(f"images must have {channels} channels, {wanted}, not {shape[1]} in shape {shape}{how}")
    if not shape[0]:
        raise InputError(f"images must be at least one, not none in shape {shape}: leave out empty batches")


def _check_list(images: Any, channels: int) -> None:
    wanted = f"a list of images of shape ({channels}, height, width), as the example is"
    if not isinstance(images, list | tuple):
        how = ": give list(images)" if isinstance(images, Tensor) and images.ndim == 4 else ""
        raise InputError(f"images must be {wanted}, not a value of type {type(images).__name__}{how}")
    items = cast("Sequence[Any]", images)
    if not items:
        raise InputError("images must be at least one, not an empty list: leave out empty batches")
    for place, each in enumerate(items):
        if not isinstance(each, Tensor) or each.ndim != 3 or each.shape[0] != channels:
            shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise InputError(f"images must be {wanted}, and number {place} is {shape}")
        check_floating("images", each)


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
