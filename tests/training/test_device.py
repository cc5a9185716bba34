"""How a run computes: attention of few tokens is written out where that is faster, and nowhere else."""

from typing import Literal

import pytest
import torch
from torch.nn.attention import SDPBackend

from attention_transfer import AttentionCopy, Data, Distiller, Experiment, Method, Training
from attention_transfer.experiment import Optimisation
from attention_transfer.models import build, describe
from attention_transfer.training.device import Place

VIT = "timm:vit_tiny_patch16_224(img_size=32, patch_size=8, depth=2, embed_dim=12, num_heads=1)"


def fused_is_allowed() -> bool:
    return SDPBackend.FLASH_ATTENTION in torch.nn.attention._cur_sdpa_kernel_backends()


@pytest.mark.parametrize(
    ("tokens", "precision", "fused"),
    [(65, "bfloat16", False), (65, "float32", True), (785, "bfloat16", True), (0, "bfloat16", True)],
)
def test_only_short_sequences_in_bfloat16_are_written_out(
    tokens: int, precision: Literal["float32", "bfloat16"], fused: bool
) -> None:
    with Place(torch.device("cpu"), precision).attention_kernel(tokens):
        assert fused_is_allowed() is fused
    assert fused_is_allowed()


def test_a_distiller_knows_how_many_tokens_its_networks_have() -> None:
    assert describe(build(VIT, 5)).tokens == 17
    assert Distiller(build(VIT, 5), example=torch.empty(2, 3, 32, 32)).tokens == 17
    assert Distiller(build("resnet8", 5), example=torch.empty(2, 3, 32, 32)).tokens == 0


@pytest.mark.parametrize("methods", [[], [AttentionCopy()]])
def test_checkpointed_layers_run_again_by_the_same_kernel(methods: list[Method]) -> None:
    place = Place(torch.device("cpu"), "bfloat16")
    gradients: list[torch.Tensor] = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        student, teacher = build(VIT, 5), build(VIT, 5)
        student.set_grad_checkpointing(checkpointed)
        distiller = Distiller(student, teacher, methods, example=torch.empty(2, 3, 32, 32))
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        with place.attention_kernel(distiller.tokens):
            with place.autocast():
                out = distiller(images, torch.arange(4))
            distiller.backward(out)
        gradients.append(student.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_step_of_a_run_is_computed_so(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attention_transfer.training.fit import fit
    from attention_transfer.training.progress import Reporter

    seen: list[tuple[bool, bool]] = []
    forward, backward = Distiller.forward, Distiller.backward

    def watched(self, *args):
        out = forward(self, *args)
        seen.append((fused_is_allowed(), torch.is_grad_enabled()))
        return out

    def watched_backward(self, out):
        seen.append((fused_is_allowed(), True))
        backward(self, out)

    monkeypatch.setattr(Distiller, "forward", watched)
    monkeypatch.setattr(Distiller, "backward", watched_backward)
    experiment = Experiment(
        "test",
        VIT,
        data=Data(train_limit=8, test_limit=8),
        optimisation=Optimisation(optimizer="adamw", learning_rate=1e-3),
        training=Training(epochs=1, batch_size=8, precision="bfloat16"),
    )
    fit(experiment, tmp_path / "run", Reporter(silent=True))
    assert seen == [(False, True), (False, True)]
