"""Settings of masked autoencoding.

>>> MaskedAutoencoding(mask_ratio=1.0)
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: mask_ratio must be 0 < r < 1, a share of the patches, not 1.0
"""

from dataclasses import dataclass
from typing import Literal

from attention_transfer.errors import InputError


@dataclass(frozen=True)
class MaskedAutoencoding:
    """Masked autoencoding: mask most patches of an image and reconstruct them from the visible ones.

    He et al., Masked Autoencoders Are Scalable Vision Learners (CVPR 2022, arXiv:2111.06377). The decoder is smaller
    here than theirs (8 blocks of width 512), as small images and networks want it; it is dropped afterwards.

    Args:
        mask_ratio: share of the patches that are masked, 0 < r < 1; at least one is masked and one is visible.
        normalise_patches: whether targets are normalised per patch, to mean 0 and variance 1 (section 3 of the paper).
        decoder_width: embedding dimension of the decoder, a multiple of `decoder_heads` and of 4.
        decoder_depth: number of transformer blocks of the decoder.
        decoder_heads: number of attention heads of the decoder.
        decoder_positions: position embeddings of the decoder: `sin-cos` are fixed, `learned` start from these.
    """

    mask_ratio: float = 0.75
    normalise_patches: bool = True
    decoder_width: int = 64
    decoder_depth: int = 1
    decoder_heads: int = 2
    decoder_positions: Literal["sin-cos", "learned"] = "sin-cos"

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise InputError(f"mask_ratio must be 0 < r < 1, a share of the patches, not {self.mask_ratio}")
        for name in ("decoder_width", "decoder_depth", "decoder_heads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise InputError(
                f"decoder_width must be a multiple of decoder_heads ({self.decoder_heads}) and of 4, not "
                f"{self.decoder_width}"
            )
