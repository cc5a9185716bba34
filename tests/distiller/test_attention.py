"""Attention methods give the same however the networks are run."""

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import timm
import torch
import torchvision
from tests.closeness import assert_near
from tests.known import compiled_whole
from tests.trained import as_trained
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attention_transfer import AttentionCopy, AttentionDistillation, AttentionTransfer, Distiller, Method
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.models.build import from_transformers_config

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
    out = Distiller(student, as_trained(vit(1)), methods, example=EXAMPLE)(IMAGES, LABELS)
    return out, gradients(student, out)


@pytest.mark.parametrize("name", METHODS)
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    wanted, wanted_gradients = plain(METHODS[name])
    student = vit(0)
    student.set_grad_checkpointing(True)
    out = Distiller(student, as_trained(vit(1)), METHODS[name], example=EXAMPLE)(IMAGES, LABELS)
    assert torch.equal(out.loss, wanted.loss)
    found = gradients(student, out)
    assert found.keys() == wanted_gradients.keys()
    for path, gradient in wanted_gradients.items():
        torch.testing.assert_close(found[path], gradient, msg=path)


def eva(seed: int) -> nn.Module:
    """Query, key and value by projections of their own."""
    torch.manual_seed(seed)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 4}
    return timm.create_model("eva02_base_patch14_224", **sizes)


def test_a_backward_pass_that_begins_at_values_runs_checkpointed_layers_as_they_ran() -> None:
    methods = [
        AttentionCopy(layers=Layers(first=1)),
        AttentionDistillation(target="value", layers=Layers(last=1)),
    ]
    found: list[dict[str, Tensor]] = []
    for checkpointed in (False, True):
        student = eva(0)
        student.set_grad_checkpointing(checkpointed)
        Distiller(student, as_trained(eva(1)), methods, task_weight=0, example=EXAMPLE)(IMAGES).loss.backward()
        found.append({name: p.grad for name, p in student.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert found[0]["patch_embed.proj.weight"].abs().max() > 0
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_nothing_of_a_step_outlives_it() -> None:
    kept: list[weakref.ref[Tensor]] = []
    student, teacher = vit(0), as_trained(vit(1))
    student.set_grad_checkpointing(True)
    distiller = Distiller(student, teacher, METHODS["copy"], example=EXAMPLE)
    for block in teacher.blocks:
        block.attn.k_norm.register_forward_hook(lambda module, args, out: kept.append(weakref.ref(out)))
    out = distiller(IMAGES, LABELS)
    assert any(each() is not None for each in kept)
    out.loss.backward()
    del out
    gc.collect()
    assert all(each() is None for each in kept)


class Biased(nn.Module):
    """One layer of attention whose bias is a parameter, as it is."""

    class Layer(nn.Module):
        def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
            heads = tokens.unflatten(2, (2, 12)).transpose(1, 2)
            found = nn.functional.scaled_dot_product_attention(heads, heads, heads, bias)
            return found.transpose(1, 2).flatten(2)

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 2, 16, 16))
        self.embed, self.head = nn.Linear(48, 24), nn.Linear(24, 4)
        self.blocks = nn.ModuleList([self.Layer()])

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.embed(nn.functional.pixel_unshuffle(image, 4).flatten(2).mT)
        return self.head(self.blocks[0](tokens, self.bias).mean(1))


def test_a_learned_bias_collects_no_hooks() -> None:
    student = Biased()
    layers = Layers(student_modules=("blocks.0",), teacher_modules=("blocks.0",))
    distiller = Distiller(student, Biased(), [AttentionCopy(heads=(0,), layers=layers)], example=EXAMPLE)
    for _ in range(2):
        distiller(IMAGES, LABELS).loss.backward()
    assert not student.bias._backward_hooks


def of_torchvision(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return torchvision.models.VisionTransformer(16, 4, 2, 2, 24, 48, num_classes=4)


def of_transformers(seed: int) -> nn.Module:
    pytest.importorskip("transformers")
    torch.manual_seed(seed)
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 24, "intermediate_size": 48}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    return from_transformers_config({"model_type": "vit", **sizes, **layers}, 4, None)


@pytest.mark.parametrize("name", ["distillation", "copy"])
@pytest.mark.parametrize("make", [of_torchvision, of_transformers])
def test_networks_of_other_libraries_compute_the_same_compiled_and_nearly_in_half_precision(
    make: Callable[[int], nn.Module], name: str
) -> None:
    losses: list[Tensor] = []
    gradients: list[dict[str, Tensor]] = []
    for way in ("plain", "compiled", "bfloat16"):
        student = make(0)
        distiller = Distiller(student, as_trained(make(1)), METHODS[name], example=EXAMPLE)
        run = torch.compile(distiller, backend="aot_eager") if way == "compiled" else distiller
        with torch.autocast("cpu", torch.bfloat16) if way == "bfloat16" else nullcontext():
            out = run(IMAGES, LABELS)
        out.loss.backward()
        losses.append(out.loss)
        gradients.append({path: p.grad for path, p in student.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0], rtol=0.02, atol=0.0)
    assert len(gradients[0]) > 10
    largest = max(float(gradient.norm()) for gradient in gradients[0].values())
    for path, gradient in gradients[0].items():
        assert_near(gradients[1][path], gradient, steps=64, scale=largest, msg=path)


# Its new name is not in the oldest version that is supported.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["distillation", "copy"])
def test_a_checkpointed_network_of_transformers_learns_the_same(name: str) -> None:
    found: list[dict[str, Tensor]] = []
    for checkpointed in (False, True):
        student = of_transformers(0)
        if checkpointed:
            inner = next(module for module in student.modules() if hasattr(module, "gradient_checkpointing_enable"))
            inner.gradient_checkpointing_enable({"use_reentrant": False})
        Distiller(student, as_trained(of_transformers(1)), METHODS[name], example=EXAMPLE)(
            IMAGES, LABELS
        ).loss.backward()
        found.append({path: p.grad for path, p in student.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for path, gradient in found[0].items():
        torch.testing.assert_close(found[1][path], gradient, msg=path)


@compiled_whole
@pytest.mark.parametrize("name", ["distillation", "copy"])
def test_compiling_changes_nothing(name: str) -> None:
    wanted, wanted_gradients = plain(METHODS[name])
    student = vit(0)
    distiller = Distiller(student, as_trained(vit(1)), METHODS[name], example=EXAMPLE)
    out = torch.compile(distiller, fullgraph=True, backend="aot_eager")(IMAGES, LABELS)
    torch.testing.assert_close(out.loss, wanted.loss)
    largest = max(float(gradient.norm()) for gradient in wanted_gradients.values())
    for path, gradient in gradients(student, out).items():
        assert_near(gradient, wanted_gradients[path], steps=64, scale=largest, msg=path)


@pytest.mark.parametrize("name", ["distillation", "copy"])
def test_half_precision_changes_little(name: str) -> None:
    wanted, _ = plain(METHODS[name])
    distiller = Distiller(vit(0), as_trained(vit(1)), METHODS[name], example=EXAMPLE)
    with torch.autocast("cpu", torch.bfloat16):
        out = distiller(IMAGES, LABELS)
    assert out.loss.dtype == torch.float32
    torch.testing.assert_close(out.loss, wanted.loss, rtol=0.02, atol=0.0)


def test_two_methods_may_not_replace_the_same_layer() -> None:
    with pytest.raises(ValueError, match=r"two methods replace attention of blocks.0.attn, .* of the student"):
        Distiller(vit(0), as_trained(vit(1)), [AttentionCopy(), AttentionCopy(target="value")], example=EXAMPLE)


def test_a_student_without_its_hooks_is_a_plain_network_of_its_library() -> None:
    student = vit(0)
    distiller = Distiller(student, as_trained(vit(1)), [AttentionDistillation()], example=EXAMPLE)
    distiller(IMAGES, LABELS).loss.backward()
    distiller.detach()
    assert type(student) is VisionTransformer
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    fresh = vit(7)
    fresh.load_state_dict(student.state_dict())
    assert torch.equal(fresh(IMAGES), student(IMAGES))
