"""Attention methods give the same however the networks are run."""

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attention_transfer import AttentionCopy, AttentionDistillation, AttentionTransfer, Distiller, Method
from attention_transfer.methods.layer_choice import Layers

EXAMPLE = torch.empty(2, 3, 16, 16)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(4)
METHODS: dict[str, list[Method]] = {
    "distillation": [AttentionDistillation()],
    "copy": [AttentionCopy()],
    "copy of some, distillation of others": [
        AttentionCopy(layers=Layers(first=1)),
        AttentionDistillation(layers=Layers(last=1)),
    ],
    "copied heads and maps of features": [AttentionCopy(first_heads=1), AttentionTransfer()],
}


def vit(seed: int, **settings: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = timm.create_model("vit_tiny_patch16_224", **(sizes | settings))
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.4)
    return model


def gradients(student: VisionTransformer, out: Any) -> dict[str, Tensor]:
    out.loss.backward()
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


def plain(methods: list[Method]) -> tuple[Any, dict[str, Tensor]]:
    student = vit(0)
    out = Distiller(student, vit(1), methods, example=EXAMPLE)(IMAGES, LABELS)
    return out, gradients(student, out)


@pytest.mark.parametrize("name", METHODS)
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    wanted, wanted_gradients = plain(METHODS[name])
    student = vit(0)
    student.set_grad_checkpointing(True)
    out = Distiller(student, vit(1), METHODS[name], example=EXAMPLE)(IMAGES, LABELS)
    assert torch.equal(out.loss, wanted.loss)
    found = gradients(student, out)
    assert found.keys() == wanted_gradients.keys()
    for path, gradient in wanted_gradients.items():
        torch.testing.assert_close(found[path], gradient, msg=path)


@pytest.mark.parametrize("name", ["distillation", "copy"])
def test_compiling_changes_nothing(name: str) -> None:
    wanted, wanted_gradients = plain(METHODS[name])
    student = vit(0)
    distiller = Distiller(student, vit(1), METHODS[name], example=EXAMPLE)
    out = torch.compile(distiller, fullgraph=True, backend="aot_eager")(IMAGES, LABELS)
    torch.testing.assert_close(out.loss, wanted.loss)
    for path, gradient in gradients(student, out).items():
        torch.testing.assert_close(gradient, wanted_gradients[path], rtol=1e-4, atol=1e-6, msg=path)


@pytest.mark.parametrize("name", ["distillation", "copy"])
def test_half_precision_changes_little(name: str) -> None:
    wanted, _ = plain(METHODS[name])
    distiller = Distiller(vit(0), vit(1), METHODS[name], example=EXAMPLE)
    with torch.autocast("cpu", torch.bfloat16):
        out = distiller(IMAGES, LABELS)
    assert out.loss.dtype == torch.float32
    torch.testing.assert_close(out.loss, wanted.loss, rtol=0.02, atol=0.0)


def test_two_methods_may_not_replace_the_same_layer() -> None:
    with pytest.raises(ValueError, match=r"two methods replace attention of blocks.0.attn, .* of the student"):
        Distiller(vit(0), vit(1), [AttentionCopy(), AttentionCopy(target="value")], example=EXAMPLE)


def test_a_student_without_its_hooks_is_a_plain_network_of_its_library() -> None:
    student = vit(0)
    distiller = Distiller(student, vit(1), [AttentionDistillation()], example=EXAMPLE)
    distiller(IMAGES, LABELS).loss.backward()
    distiller.detach()
    assert type(student) is VisionTransformer
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    fresh = vit(7)
    fresh.load_state_dict(student.state_dict())
    assert torch.equal(fresh(IMAGES), student(IMAGES))
