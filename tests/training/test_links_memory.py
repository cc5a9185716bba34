"""A batch of attention links that no memory holds is refused before training."""

import pytest

from attention_transfer import AttentionLinks
from attention_transfer.methods.attention_links import link_weights
from attention_transfer.methods.attention_links.link_weights import Links
from attention_transfer.training.prepare import prepare
from tests.training.conftest import Make

STUDENT = "timm:vit_tiny_patch16_224(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3)"


def test_a_training_batch_counts_as_a_whole(make: Make, monkeypatch: pytest.MonkeyPatch):
    experiment = make(student=STUDENT, teacher="resnet8", methods=(AttentionLinks(),))
    links = prepare(experiment).distiller.parts["attention-links"]  # pyright: ignore
    assert isinstance(links, Links)
    needed = links.bytes_per_image
    monkeypatch.setattr(link_weights, "memory_of", lambda device: 16 * needed)
    prepare(experiment)
    monkeypatch.setattr(link_weights, "memory_of", lambda device: 16 * needed - 1)
    with pytest.raises(ValueError, match=r"for a batch of 16.*select some stages"):
        prepare(experiment)
