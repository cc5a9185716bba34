"""How the values at a network's modules lie, by what was seen of them when it ran."""

import re
from dataclasses import replace

from attention_transfer.capture import Layout, Places, Tap
from attention_transfer.capture.output_layouts import Place
from attention_transfer.capture.patch_grid import Grid, fits, patch_grid

# Suggested layers have at most half the rows of the image, and at least so many positions.
_LEAST_POSITIONS = 4
_MOST_SUGGESTED = 4
# What attention is made of may have as many queries and keys as an image has rows and columns.
_OF_ATTENTION = re.compile(r"(.*[._])?(attn|attention)\d*\..*")


def tap_seen(places: Places, usual: Tap) -> Tap | None:
    """A place with the layout that its value was seen to have.

    Args:
        places: of the network.
        usual: the place, with the layout that it would have otherwise.

    Returns:
        None where its tokens lie in an order of their own.
    """
    place = places.outputs.get(usual.module)
    shape = None if place is None else _shape(place, usual)
    if shape is None or usual.layout == "raw" or shape[:1] != (places.images,):
        return usual
    if len(shape) == 4:
        return replace(usual, layout=_layout(shape, places.image, usual.layout))
    if len(shape) != 3:
        return usual
    return tokens_seen(places, shape[1], usual)


def tokens_seen(places: Places, count: int, usual: Tap) -> Tap | None:
    """The same of so many tokens.

    Args:
        places: of the network.
        count: of the tokens, those before the patches included.
        usual: the place, with what would be said of them otherwise.
    """
    tokens = places.tokens.get(count)
    if tokens is not None and tokens.grid is None:
        return None
    if tokens is not None and tokens.grid is not None:
        said = patch_grid(count - tokens.prefix, usual.grid, usual.patch, places.image)
        if (usual.layout, usual.prefix_tokens, said) == ("tokens", tokens.prefix, tokens.grid):
            return usual
        patch = _patch(tokens.grid, places.image)
        return replace(usual, layout="tokens", prefix_tokens=tokens.prefix, grid=None, patch=patch)
    # Later stages have merged the patches that were seen.
    cut = next((each.grid for each in reversed([*places.tokens.values()]) if each.grid is not None), None)
    if cut is None or usual.patch is not None:
        return usual
    return replace(usual, layout="tokens", patch=_patch(cut, places.image))


def suggested_layers(places: Places) -> tuple[str, ...]:
    """Modules that a user could name as layers: of each resolution the last that runs once and gives a map."""
    found: dict[Grid, str] = {}
    for path, place in places.outputs.items():
        if not path or place.calls > 1 or len(place.shapes) != 1 or _OF_ATTENTION.fullmatch(path):
            continue
        (shape,) = place.shapes.values()
        # Biases and windows are not of one image each.
        grid = _grid(shape, places) if shape and shape[0] == places.images else None
        if grid is None or 2 * grid[0] > places.image[0] or grid[0] * grid[1] < _LEAST_POSITIONS:
            continue
        found.pop(grid, None)
        found[grid] = path
    return tuple(found.values())[-_MOST_SUGGESTED:]


def such_as(layers: tuple[str, ...]) -> str:
    """Words that name layers as a user writes them; empty for none."""
    written = ", ".join(map(repr, layers)) + ("," if len(layers) == 1 else "")
    return f", such as ({written})" if layers else ""


def _shape(place: Place, tap: Tap) -> tuple[int, ...] | None:
    if tap.item is None and len(place.shapes) == 1:
        return next(iter(place.shapes.values()))
    return place.shapes.get(tap.item)


def _grid(shape: tuple[int, ...], places: Places) -> Grid | None:
    """Rows and columns of a value of which they are certain."""
    if len(shape) == 3:
        tokens = places.tokens.get(shape[1])
        return None if tokens is None else tokens.grid
    if len(shape) != 4:
        return None
    first, last = fits(shape[1:3], places.image), fits(shape[2:4], places.image)
    # A layer that a user names is read with its channels first, unless they can only be last.
    if last:
        return shape[2], shape[3]
    return (shape[1], shape[2]) if first else None


def _layout(shape: tuple[int, ...], image: tuple[int, int], usual: Layout) -> Layout:
    """How a value of four dimensions lies: by the one pair of sides that are those of the image, or else as usual."""
    channels_last, channels_first = fits(shape[1:3], image), fits(shape[2:4], image)
    if channels_last != channels_first:
        return "nhwc" if channels_last else "nchw"
    return "nhwc" if usual == "nhwc" else "nchw"


def _patch(grid: Grid, image: tuple[int, int]) -> tuple[float, float]:
    return image[0] / grid[0], image[1] / grid[1]
