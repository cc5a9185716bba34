"""The part of a masked autoencoder that is thrown away: from what was seen to the pixels of what was hidden."""

from typing import cast

import torch
from jaxtyping import Float, Int64
from timm.layers import build_sincos2d_pos_embed  # pyright: ignore[reportPrivateImportUsage]
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from attention_transfer.pretraining.settings import MaskedAutoencoding


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
