"""Attention of few tokens is written out where that is faster, and nowhere else."""

import pytest
import torch
from torch.nn.attention import SDPBackend

from attention_transfer import Distiller
from attention_transfer.capture import attention_kernel
from attention_transfer.models import build, describe

CPU = torch.device("cpu")


def fused_is_allowed() -> bool:
    return SDPBackend.FLASH_ATTENTION in torch.nn.attention._cur_sdpa_kernel_backends()


@pytest.mark.parametrize(("tokens", "bfloat16", "fused"), [(65, True, False), (65, False, True), (785, True, True)])
def test_only_short_sequences_in_bfloat16_are_written_out(tokens: int, bfloat16: bool, fused: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16), attention_kernel(CPU, tokens):
        assert fused_is_allowed() is fused
    assert fused_is_allowed()


def test_a_distiller_knows_how_many_tokens_its_networks_have() -> None:
    model = build("timm:vit_tiny_patch16_224(img_size=32, patch_size=8, depth=2, embed_dim=12, num_heads=1)", 5)
    assert describe(model).tokens == 17
    assert describe(build("resnet8", 5)).tokens == 0
    seen: list[bool] = []
    model.blocks[0].attn.register_forward_hook(lambda *args: seen.append(fused_is_allowed()))
    distiller = Distiller(model, example=torch.empty(2, 3, 32, 32))
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        distiller(torch.randn(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))
    assert seen == [False]
