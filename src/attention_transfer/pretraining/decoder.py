"""The decoder of a masked autoencoder, and the patches that it predicts."""

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


class Decoder(nn.Module):
    """A small vision transformer over the tokens that an encoder made and a learned token for each hidden patch.

    Attention knows no order, so tokens are not put back in their places: each is given the position that it is from,
    and the hidden ones come last, where their predictions are read.

    Args:
        encoder_width: size of the encoder's tokens.
        grid: rows and columns of the patches.
        prefix_tokens: class token and registers, which come first and have no position.
        pixels: values of a patch.
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
        """Pixels of the hidden patches, in the order in which they stand in `order`.

        Args:
            encoded: prefix tokens, then those of the patches seen.
            order: places of all patches, the seen ones first.
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
        """What the optimiser leaves undecayed, as timm's networks say it."""
        return {"mask_token", "positions"}
