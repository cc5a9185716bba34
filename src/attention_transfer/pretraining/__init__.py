"""Self-supervised pre-training of teachers and students: masked autoencoding (MAE).

`MaskedAutoencoder` has the interface of a `Distiller`, so that the one training loop drives both; its settings,
`MaskedAutoencoding`, are a section of an experiment.

>>> import timm, torch
>>> encoder = timm.create_model(
...     "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, embed_dim=24, num_heads=2, num_classes=0
... )
>>> images = torch.rand(4, 3, 32, 32)
>>> model = MaskedAutoencoder(encoder, MaskedAutoencoding(mask_ratio=0.75, decoder_width=16), example=images)
>>> model.num_patches, model.num_seen
(16, 4)
>>> out = model(images, index=torch.arange(4))
>>> out.loss.shape
torch.Size([])
>>> model.backward(out)
>>> model.deployed is encoder
True
"""

from attention_transfer.pretraining.masked_autoencoder import MaskedAutoencoder
from attention_transfer.pretraining.settings import MaskedAutoencoding

__all__ = ["MaskedAutoencoder", "MaskedAutoencoding"]
