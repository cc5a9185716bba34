"""Why an image cannot be used."""

from attention_transfer.errors import InputError


class IncompleteImageError(InputError):
    """A file that cannot be decoded: damaged, cut off, or no image at all."""


class UnsuitableImageError(InputError):
    """An image that can be decoded, but of which no 8-bit values follow, or that is too large."""
