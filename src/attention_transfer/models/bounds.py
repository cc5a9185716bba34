"""How large images may be that a network is built for: whatever is asked for in words of anybody's is bounded."""

from attention_transfer.data.request import LARGEST_SIDE
from attention_transfer.errors import InputError

_SHOWN = 40  # letters of a number that is out of bounds


def check_side(image_size: object) -> None:
    """Refuse what is no side of an image.

    Args:
        image_size: in pixels; None where a network takes any.

    Raises:
        ValueError: saying what it is instead.
    """
    if image_size is None:
        return
    whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if not whole or not 1 <= image_size <= LARGEST_SIDE:
        raise InputError(
            f"image_size must be a whole number of pixels from 1 to {LARGEST_SIDE:,}, not {repr(image_size)[:_SHOWN]}"
        )
