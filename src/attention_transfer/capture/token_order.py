"""In which order the tokens of an image lie: found by changing parts of the image."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log2

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attention_transfer.capture.patch_grid import Grid

# Patches that overlap see their neighbours too, most of all where these alternate.
_AGREE, _AGREE_ALTERNATING = 0.9, 0.7
_IMAGES_AT_ONCE = 8
# A row or a column is looked at by itself where there are no more of them.
_MOST_BANDS = 128


def change(value: Float[Tensor, "n c"], before: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """How much each token has changed."""
    return (value.float() - before.float()).abs().mean(1)


@dataclass(frozen=True)
class Look:
    """Looks at tokens while parts of an image change.

    Args:
        read: the tokens of a batch of images; None where they cannot be read.
        base: an image.
        other: another.
        prefix: how many tokens lie before the patches.
    """

    read: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b n d"] | None]
    base: Float[Tensor, "1 c h w"]
    other: Float[Tensor, "1 c h w"]
    prefix: int

    def grid(self, patches: int, seen: Sequence[Grid]) -> Grid | None:
        """Rows and columns of so many patches, if they lie row by row; None where they lie otherwise.

        Args:
            patches: their number, without the tokens before them.
            seen: rows and columns of maps, in the order in which they were met.
        """
        height, width = self.base.shape[2:]
        candidates = [*dict.fromkeys(_candidates(patches, seen, height / width))]
        # Few images tell it where patches see little of their neighbours, many where they do.
        exact = next((each for each in candidates if self._changes_by_digits(each)), None)
        if exact is not None:
            return exact
        return next((each for each in candidates if max(each) <= _MOST_BANDS and self._looks_at_bands(each)), None)

    def _changes_by_digits(self, grid: Grid) -> bool:
        """Rows and columns of the tokens, read as binary numbers.

        Of each digit, the tokens whose number has it change when the image is changed there, and the others when it is
        changed elsewhere.
        """
        for axis, count in enumerate(grid):
            place, digits = self._bands(axis, count), range(ceil(log2(count)))
            changed = self._changed(
                [parts for digit in digits for parts in ((place >> digit & 1).bool(), ~(place >> digit & 1).bool())],
                axis,
            )
            if changed is None:
                return False
            numbers = torch.arange(count, device=place.device)
            for digit in digits:
                on, off = changed[2 * digit].view(grid), changed[2 * digit + 1].view(grid)
                expected = (numbers >> digit & 1).bool().view((-1, 1) if axis == 0 else (1, -1))
                agree = float(((on > off) == expected).float().mean())
                if agree < (_AGREE if digit else _AGREE_ALTERNATING):
                    return False
        return True

    def _looks_at_bands(self, grid: Grid) -> bool:
        """Whether the middle of what a token sees of the image is, of all rows and columns, closest to that of its own.

        Each row and column changes alone. What convolutions see is not centred at their patches, and ends with the
        image, so only tokens are compared with each other.
        """
        for axis, count in enumerate(grid):
            place = self._bands(axis, count)
            changed = self._changed([place == number for number in range(count)], axis)
            if changed is None:
                return False
            numbers = torch.arange(count, device=place.device, dtype=torch.float32)
            middle = (numbers @ changed / changed.sum(0)).view(grid)
            means = middle.mean(1 - axis)
            if any(float(first) >= float(second) for first, second in pairwise(means)):
                return False
            closest = (middle[..., None] - means).abs().argmin(-1)
            own = torch.arange(count, device=place.device).view((-1, 1) if axis == 0 else (1, -1))
            if float((closest == own).float().mean()) < _AGREE:
                return False
        return True

    def _bands(self, axis: int, count: int) -> Tensor:
        """Of each row or column of pixels, the number of the one of patches that it would be of."""
        pixels = self.base.shape[2 + axis]
        return torch.arange(pixels, device=self.base.device) * count // pixels

    def _changed(self, parts: Sequence[Bool[Tensor, " pixels"]], axis: int) -> Float[Tensor, "parts patches"] | None:
        """How much each patch changes when rows or columns of the image do."""
        if not parts:
            return self.base.new_zeros(0, 0)
        found: list[Tensor] = []
        for first in range(0, len(parts), _IMAGES_AT_ONCE):
            there = [part.view((-1, 1) if axis == 0 else (1, -1)) for part in parts[first : first + _IMAGES_AT_ONCE]]
            value = self.read(torch.cat([self.base, *(torch.where(each, self.other, self.base) for each in there)]))
            if value is None or len(value) != len(there) + 1:
                return None
            found += [change(each, value[0])[self.prefix :] for each in value[1:]]
        return torch.stack(found)


def _candidates(patches: int, seen: Sequence[Grid], ratio: float) -> Iterator[Grid]:
    """Grids of so many patches: those that were seen, latest first, then all, those of square patches first."""
    yield from (grid for grid in reversed(seen) if grid[0] * grid[1] == patches)
    divisors = [rows for rows in range(1, patches + 1) if patches % rows == 0]
    for rows in sorted(divisors, key=lambda rows: abs(log2(rows / (patches // rows) / ratio))):
        yield rows, patches // rows
