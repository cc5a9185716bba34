"""Places in a network, and how the values read there lie in memory."""

from dataclasses import dataclass
from math import isqrt
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from attention_transfer.errors import InputError

Site = Literal["output", "input", "attention", "softmax", "map"]
Layout = Literal["nchw", "nhwc", "tokens", "raw"]


class CaptureError(InputError):
    """A network cannot be read as asked; raised when a distiller is built, never in a step."""


@dataclass(frozen=True)
class Tap:
    """A place in a network where a value is read while it runs.

    Args:
        module: dotted path of a submodule, as in `named_modules()`.
        site: its `output`, or its first positional `input` (the way to read a value before the activation that
            follows); or attention: a call of torch's fused kernel (`attention`) or of a softmax (`softmax`) inside the
            module, or its first positional input where that is an attention map (`map`). A module called several times
            in one forward counts with its last call.
        layout: how the value is laid out: `nchw`, `nhwc`, or `tokens` (batch, prefix + h·w, channels). A value of three
            dimensions always counts as tokens, one of four dimensions never. `raw` is for methods that take the value
            as the network laid it out.
        prefix_tokens: tokens before those of the patches (class, distillation, registers); only for `tokens` and
            attention.
        grid: rows and columns of the patches; None means a square grid; likewise.
        class_tokens: how many of the tokens before the patches are class tokens, 0 or 1, which then comes first; None
            where nobody knows; only for attention.
        window_shift: of attention within square windows, row by row in the batch: by how many patches the image was
            moved up and left before it was cut; None where there are no windows, or nobody knows how they lie.
    """

    module: str
    site: Site = "output"
    layout: Layout = "nchw"
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = None
    class_tokens: int | None = None
    window_shift: tuple[int, int] | None = None
    padded: bool = False

    @property
    def is_attention(self) -> bool:
        """Whether an attention layer is read here, not a value."""
        return self.site in ("attention", "softmax", "map")

    def __str__(self) -> str:
        if self.is_attention:
            return f"attention of {self.module}"
        return self.module if self.site == "output" else f"input of {self.module}"


def spatial(value: Tensor, tap: Tap) -> Float[Tensor, "b c h w"]:
    """A captured value as (batch, channels, height, width), whatever the network's layout; a view, prefix tokens
    dropped. What is read `raw` stays as it is.

    Raises:
        CaptureError: if it has neither three nor four dimensions, or its tokens do not fill a grid.
    """
    if tap.layout == "raw":
        return value
    if value.ndim == 4:
        return value.permute(0, 3, 1, 2) if tap.layout == "nhwc" else value
    if value.ndim != 3:
        raise CaptureError(
            f"{tap} gives a value of shape {tuple(value.shape)}; wanted are 4 dimensions, "
            "or 3 for tokens: name another layer"
        )
    patches = value.shape[1] - tap.prefix_tokens
    rows, columns = tap.grid or (isqrt(max(patches, 0)),) * 2
    if patches < 1 or rows * columns != patches:
        raise CaptureError(
            f"{tap} gives {value.shape[1]} tokens, {tap.prefix_tokens} of them before the patches; the rest do not "
            f"fill a grid of {rows}×{columns}"
        )
    return value[:, tap.prefix_tokens :].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
