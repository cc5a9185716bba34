"""Images as patches, and which of them are hidden: pure functions."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from attention_transfer.counter_rng import hashed

_MASK = 16  # the stream of the hash that orders patches; the data room has the low numbers


def num_seen(num_patches: int, mask_ratio: float) -> int:
    """How many patches of an image are seen: at least one, and at least one is hidden.

    Args:
        num_patches: of an image, at least 2.
        mask_ratio: share that is hidden, 0 < r < 1.
    """
    return min(max(int(num_patches * (1 - mask_ratio)), 1), num_patches - 1)


def random_order(index: Int64[Tensor, " b"], num_patches: int, *, seed: int, epoch: Tensor) -> Int64[Tensor, "b n"]:
    """For every image its patches in a random order, of which the first are seen: a function of (seed, epoch, index).

    Args:
        index: positions of the images in their split.
        num_patches: of an image.
        seed: of the run.
        epoch: its number, without axes, on the device of `index`.
    """
    places = torch.arange(num_patches, device=index.device)
    return hashed(seed, _MASK, epoch, index[:, None], places).argsort(dim=1, stable=True)


def take(tokens: Float[Tensor, "b n d"], places: Int64[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """Of every image the tokens at its own places."""
    batch, count, width = tokens.shape
    rows = places + torch.arange(0, batch * count, count, device=places.device)[:, None]
    # Rows of a matrix: several times faster on a CPU than gathering single values, forwards and backwards.
    return tokens.reshape(-1, width).index_select(0, rows.reshape(-1)).reshape(batch, -1, width)


def patches_of(images: Float[Tensor, "b c h w"], patch: tuple[int, int]) -> Float[Tensor, "b n p"]:
    """The pixels of every patch, row by row of the image.

    Args:
        images: sides are multiples of the patch's.
        patch: height and width of a patch, in pixels.
    """
    batch, channels, height, width = images.shape
    tall, wide = patch
    tiled = images.reshape(batch, channels, height // tall, tall, width // wide, wide)
    return tiled.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, tall * wide * channels)


def normalised(patches: Float[Tensor, "b k p"]) -> Float[Tensor, "b k p"]:
    """Pixels less the mean of their patch, over its deviation."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) * (variance + 1e-6).rsqrt()
