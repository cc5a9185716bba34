"""How the patches of an image fill rows and columns.

>>> patch_grid(16, None, (16, 16), (64, 64))
(4, 4)
>>> patch_grid(64, None, (16, 16), (64, 256))
(4, 16)
"""

from math import ceil, isqrt, sqrt

Grid = tuple[int, int]
Patch = tuple[float, float]
# Sides in patches may be fractions that are whole but for rounding.
_ROUNDING = 1e-6


def patch_grid(patches: int, grid: Grid | None, patch: Patch | None, image: tuple[int, int] | None) -> Grid | None:
    """Rows and columns of patches in the order of reading; None if unknown.

    Args:
        patches: their number.
        grid: the rows and columns that they have in images of the usual size; None where there are none of the kind.
        patch: height and width of one of them at the network's entry, in pixels; later stages may have merged them.
        image: height and width of the image, in pixels.
    """
    if patches < 1:
        return None
    if patch is not None and image is not None:
        found = _cut(patches, patch, image)
        if found is not None:
            return found
    if grid is not None:
        return grid if grid[0] * grid[1] == patches else None
    side = isqrt(patches)
    square = image is None or image[0] == image[1]
    return (side, side) if square and side * side == patches else None


def fits(sides: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether rows and columns are those of an image divided by one number and rounded."""
    bounds = [((side - 1) / whole, (side + 1) / whole) for side, whole in zip(sides, image, strict=True)]
    return max(low for low, _ in bounds) < min(high for _, high in bounds)


def _cut(patches: int, patch: Patch, image: tuple[int, int]) -> Grid | None:
    """The grid of so many patches that an image is cut into, merged by some whole number along both sides."""
    rows, columns = (side / each for side, each in zip(image, patch, strict=True))
    found: set[Grid] = set()
    for scale in _scales(rows, columns, patches):
        # What is left at the border is filled up to a patch, or cut off.
        for rounded in (_filled, _cut_off):
            grid = rounded(rows * scale), rounded(columns * scale)
            if grid[0] * grid[1] == patches:
                found.add(grid)
    return found.pop() if len(found) == 1 else None


def _scales(rows: float, columns: float, patches: int) -> list[float]:
    """By what both sides may have been multiplied: stages merge patches, or were cut finer than was said."""
    most = sqrt(rows * columns / patches)
    if most < 1:
        return [float(max(1, round(1 / most)))]
    # Filling up and cutting off change the number of patches by less than a row and a column.
    return [1 / merged for merged in range(1, ceil(2 * most) + 2)]


def _filled(side: float) -> int:
    return ceil(side - _ROUNDING)


def _cut_off(side: float) -> int:
    return int(side + _ROUNDING)
