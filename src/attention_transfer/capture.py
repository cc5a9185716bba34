"""All reading of networks happens here: the only file with a hook."""

from dataclasses import dataclass
from typing import Literal

Layout = Literal["nchw", "nhwc", "tokens"]


@dataclass(frozen=True)
class Tap:
    """A place in a network where a value is read while it runs.

    Args:
        module: dotted path of a submodule, as in `named_modules()`.
        site: its `output`, or its first positional `input` (the way to read a value before the activation that follows).
            A module called several times in one forward counts with its last call.
        layout: how the value is laid out: `nchw`, `nhwc`, or `tokens` (batch, prefix + h·w, channels).
        prefix_tokens: tokens before those of the patches (class, distillation, registers); only for `tokens`.
        grid: rows and columns of the patches; None means a square grid; only for `tokens`.
    """

    module: str
    site: Literal["output", "input"] = "output"
    layout: Layout = "nchw"
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.module if self.site == "output" else f"input of {self.module}"
