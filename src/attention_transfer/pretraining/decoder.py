"""Decoder of a masked autoencoder, random masking and patches of images.

>>> import torch
>>> num_seen(196, mask_ratio=0.75)
49
>>> order = random_order(torch.tensor([0, 1]), 4, seed=0, epoch=torch.tensor(0))
>>> order.sort(dim=1).values.tolist()
[[0, 1, 2, 3], [0, 1, 2, 3]]
>>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
>>> patches_of(image, (2, 2))[0].tolist()
[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0], [8.0, 9.0, 12.0, 13.0], [10.0, 11.0, 14.0, 15.0]]
>>> take(patches_of(image, (2, 2)), torch.tensor([[3]])).tolist()
[[[10.0, 11.0, 14.0, 15.0]]]
"""

from typing import cast

import torch
from jaxtyping import Float, Int64
from timm.layers import build_sincos2d_pos_embed  # pyright: ignore[reportPrivateImportUsage]
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from attention_transfer.counter_rng import hashed
from attention_transfer.pretraining.settings import MaskedAutoencoding

_MASK = 16  # the stream of the hash that orders patches; the data room has the low numbers


def num_seen(num_patches: int, mask_ratio: float) -> int:
    """Number of visible patches of an image: at least one is visible, and at least one is masked.

    Args:
        num_patches: patches of an image, at least 2.
        mask_ratio: share that is masked, 0 < r < 1.
    """
    return min(max(int(num_patches * (1 - mask_ratio)), 1), num_patches - 1)


def random_order(index: Int64[Tensor, " b"], num_patches: int, *, seed: int, epoch: Tensor) -> Int64[Tensor, "b n"]:
    """Random order of the patches of every image, visible ones first: a function of (seed, epoch, dataset index).

    Args:
        index: dataset indices of the images.
        num_patches: patches of an image.
        seed: seed of the run.
        epoch: number of the epoch, a tensor without axes on the device of `index`.
    """
    patches = torch.arange(num_patches, device=index.device)
    return hashed(seed, _MASK, epoch, index[:, None], patches).argsort(dim=1, stable=True)


def take(tokens: Float[Tensor, "b n d"], which: Int64[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """Tokens of every image at its own indices.

    Args:
        tokens: of a batch.
        which: indices of tokens, for every image others.
    """
    batch, count, width = tokens.shape
    rows = which + torch.arange(0, batch * count, count, device=which.device)[:, None]
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
    """Patches normalised to mean 0 and variance 1, each by itself."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) * (variance + 1e-6).rsqrt()  # 1e-6 is the ε of the authors' code


class Decoder(nn.Module):
    """A small vision transformer over the encoder's tokens and one learned mask token for each masked patch.

    Attention knows no order, so tokens are not sorted back: each is given the position embedding of its patch, and the
    masked ones come last, where their predictions are read.

    Args:
        encoder_width: embedding dimension of the encoder.
        grid: rows and columns of the patches.
        prefix_tokens: class token and registers, which come first and have no position.
        pixels: values of a patch, over all channels.
        settings: width, depth, heads and positions.
        norm: whether the encoder's tokens are normed first, where the encoder does not.
    """

    def __init__(
        self,
        encoder_width: int,
        grid: tuple[int, int],
        prefix_tokens: int,
        pixels: int,
        settings: MaskedAutoencoding,
        *,
        norm: bool,
    ) -> None:
        super().__init__()
        width = settings.decoder_width
        self.prefix_tokens = prefix_tokens
        self.norm_encoded = nn.LayerNorm(encoder_width) if norm else nn.Identity()
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = build_sincos2d_pos_embed(list(grid), width)
        if settings.decoder_positions == "learned":
            self.positions = nn.Parameter(positions)
        else:
            self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.Sequential(
            *(Block(width, settings.decoder_heads, qkv_bias=True) for _ in range(settings.decoder_depth))
        )
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, pixels)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, encoded: Float[Tensor, "b t d"], order: Int64[Tensor, "b n"]) -> Float[Tensor, "b hidden pixels"]:
        """Predicted pixels of the masked patches, in the order in which they stand in `order`.

        Args:
            encoded: prefix tokens, then those of the patches seen.
            order: indices of all patches, the visible ones first.
        """
        tokens = self.embed(self.norm_encoded(encoded))
        prefix, seen = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
        positions = cast(Tensor, self.positions)[order].to(tokens.dtype)
        hidden = order.shape[1] - seen.shape[1]
        x = torch.cat(
            [prefix, seen + positions[:, :-hidden], self.mask_token.to(tokens.dtype) + positions[:, -hidden:]], dim=1
        )
        x = self.blocks(x)[:, -hidden:]
        return self.predict(self.norm(x))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, as timm's networks give them."""
        return {"mask_token", "positions"}
