"""Places in a network, and how the values read there lie in memory.

>>> str(Tap("layer1")), str(Tap("layer1.0.relu", "input"))
('layer1', 'input of layer1.0.relu')

However a network lays its values out, methods receive channels, rows and columns:

>>> import torch
>>> spatial(torch.rand(2, 7, 7, 64), Tap("stage", layout="nhwc")).shape
torch.Size([2, 64, 7, 7])
>>> spatial(torch.rand(2, 1 + 49, 64), Tap("blocks.0", layout="tokens", prefix_tokens=1)).shape
torch.Size([2, 64, 7, 7])
>>> spatial(torch.rand(2, 50, 64), Tap("blocks.0", layout="tokens"))
Traceback (most recent call last):
    ...
attention_transfer.capture.tap.CaptureError: blocks.0 gives 50 tokens, 0 of them before the patches; the rest do not ...
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from attention_transfer.capture.patch_grid import Grid, Patch, patch_grid
from attention_transfer.errors import InputError

Item = int | str | None


def tensors_in(value: Any) -> Iterator[tuple[Item, Tensor]]:
    """The tensors that a module gives, each with its index or key; None where it gives a tensor itself."""
    if isinstance(value, Tensor):
        yield None, value
    elif isinstance(value, Mapping):
        yield from ((str(key), each) for key, each in value.items() if isinstance(each, Tensor))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        yield from ((index, each) for index, each in enumerate(value) if isinstance(each, Tensor))


def tensor_in(value: Any, item: Item) -> Any:
    """The tensor of that index or key, or without one the only tensor; anything else as it came.

    Args:
        value: what a module gives, or takes.
        item: index, from the end where it is negative, or key.
    """
    if isinstance(value, Tensor) and item is None:
        return value
    found = dict(tensors_in(value))
    if item is None:
        return next(iter(found.values())) if len(found) == 1 else value
    if isinstance(item, int) and item < 0 and isinstance(value, Sequence):
        item += len(value)
    return found.get(item, value)


Site = Literal["output", "input", "attention", "softmax", "map"]
Layout = Literal["nchw", "nhwc", "tokens", "raw"]


# A module, which of its tensors, which of its calls.
_NAME = re.compile(r"(.*?)(?:\[(-?\w+)\])?(?:#(\d+))?")


class CaptureError(InputError):
    """A network cannot be read as asked; raised when a distiller is built, never in a step."""


@dataclass(frozen=True)
class Tap:
    """A place in a network where a value is read while it runs.

    Args:
        module: dotted path of a submodule, as in `named_modules()`.
        site: its `output`, or its first positional `input` (the way to read a value before the activation that
            follows); or attention: a call of torch's fused kernel (`attention`) or of a softmax (`softmax`) inside the
            module, or its first positional input where that is an attention map (`map`).
        layout: how the value is laid out: `nchw`, `nhwc`, or `tokens` (batch, prefix + h·w, channels). A value of three
            dimensions always counts as tokens, one of four dimensions never. `raw` is for methods that take the value
            as the network laid it out.
        prefix_tokens: tokens before those of the patches (class, distillation, registers); only for `tokens` and
            attention.
        grid: rows and columns of the patches; None where `patch` says how to find them, or they fill a square;
            only for `tokens` and attention.
        patch: height and width of the image that one patch was cut from, in pixels, at the network's entry; from them
            the grid follows for an image of any size; only for `tokens` and attention.
        class_tokens: how many of the tokens before the patches are class tokens, 0 or 1, which then comes first; None
            if unknown; only for attention.
        window_shift: of attention within square windows, row by row in the batch: by how many patches the image was
            moved up and left before it was cut; None where there are no windows, or how they lie is unknown.
        padded: of attention within windows: whether the image was filled up before it was cut.
        in_rows: of attention: False where its patches lie in an order of their own.
        item: which tensor of a module that hands on several: an index, or a key; None where there is only one.
        call: which run of a module that runs several times in one forward pass, counted from 1; None where it runs
            once.
        within: a module in whose run the place is read, with its last call there; of an activation that serves several
            layers.
    """

    module: str
    site: Site = "output"
    layout: Layout = "nchw"
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = None
    class_tokens: int | None = None
    window_shift: tuple[int, int] | None = None
    padded: bool = False
    item: Item = None
    call: int | None = None
    within: str | None = None
    patch: Patch | None = None
    in_rows: bool = True

    @property
    def is_attention(self) -> bool:
        """Whether an attention layer is read here, not a value."""
        return self.site in ("attention", "softmax", "map")

    @property
    def name(self) -> str:
        """How a user writes it: `blocks.3`, `blocks.3[0]` for one of several tensors, `act#2` for the second call."""
        item = "" if self.item is None else f"[{self.item}]"
        return self.module + item + ("" if self.call is None else f"#{self.call}")

    def at(self, name: str) -> "Tap":
        """The same reading at another place, written as in `name`."""
        match = _NAME.fullmatch(name)
        assert match is not None
        module, item, call = match.groups()
        chosen = int(item) if item and item.lstrip("-").isdigit() else item
        return replace(self, module=module, item=chosen, call=None if call is None else int(call), within=None)

    def __str__(self) -> str:
        if self.is_attention:
            return f"attention of {self.name}"
        return self.name if self.site == "output" else f"input of {self.name}"


def spatial(value: Tensor, tap: Tap, image: tuple[int, int] | None = None) -> Float[Tensor, "b c h w"]:
    """A captured value as (batch, channels, height, width), whatever the network's layout.

    Of volumes (videos) as (batch, channels, time, height, width). A view, prefix tokens dropped. What is read `raw`
    stays as it is.

    Args:
        value: of that place.
        tap: where it was read.
        image: height and width of the images that the network was given; None where they are not known.

    Raises:
        CaptureError: if it has fewer than three dimensions or more than five, or its tokens fill no known grid.
    """
    if tap.layout == "raw":
        return value
    if value.ndim == 5:
        return value.movedim(-1, 1) if tap.layout == "nhwc" else value
    if value.ndim == 4:
        return value.permute(0, 3, 1, 2) if tap.layout == "nhwc" else value
    if value.ndim != 3:
        raise CaptureError(
            f"{tap} gives a value of shape {tuple(value.shape)}; wanted are 4 dimensions, "
            "5 of volumes, or 3 for tokens: name another layer"
        )
    rows, columns = token_grid(value.shape[1], tap, image)
    return value[:, tap.prefix_tokens :].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)


def token_grid(tokens: int, tap: Tap, image: tuple[int, int] | None) -> Grid:
    """Rows and columns of the patches among the tokens of a place.

    Args:
        tokens: their number, those before the patches included.
        tap: the place.
        image: height and width of the images, in pixels; None where they are not known.

    Raises:
        CaptureError: if that could not be determined.
    """
    grid = patch_grid(tokens - tap.prefix_tokens, tap.grid, tap.patch, image)
    if grid is None:
        of_image = "" if image is None else f" of images of {image[0]}×{image[1]} pixels"
        patch = "" if tap.patch is None else f" in patches of {tap.patch[0]:g}×{tap.patch[1]:g}"
        wanted = f"a grid of {tap.grid[0]}×{tap.grid[1]}" if tap.grid else f"a grid{of_image}{patch} that anybody knows"
        raise CaptureError(
            f"{tap} gives {tokens} tokens, {tap.prefix_tokens} of them before the patches; the rest do not fill "
            f"{wanted}: give square images, name a layer whose values have rows and columns, or let the network say "
            "where its stages are (an attribute declared_stages, a tuple of Stage with taps that have a grid)"
        )
    return grid
