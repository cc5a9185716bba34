"""Feature distillation compares every token after every block."""

import pytest
import timm
import torch
from tests.trained import as_trained
from timm.models.vision_transformer import VisionTransformer

from attention_transfer import Distiller, build
from attention_transfer.methods.feature_distillation import FeatureDistillation
from attention_transfer.methods.layers.layer_selection import Layers

EXAMPLE = torch.empty(2, 3, 16, 16)
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def vit(width: int = 12, depth: int = 2, **settings: object) -> VisionTransformer:
    return as_trained(timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=width, depth=depth, num_heads=2, num_classes=4,
        **settings
    ))  # fmt: skip


def tokens_after_blocks(model: VisionTransformer, images: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda m, a, out: found.append(out)) for block in model.blocks]
    model(images)
    for handle in handles:
        handle.remove()
    return found


def test_the_value_is_the_sum_over_blocks_of_the_mean_squared_error_of_all_tokens() -> None:
    torch.manual_seed(0)
    student, teacher = vit().double(), vit().double().eval()
    distiller = Distiller(student, teacher, [FeatureDistillation()], task_weight=0, example=EXAMPLE.double())
    images, expected = IMAGES.double(), 0.0
    for ours, theirs in zip(tokens_after_blocks(student, images), tokens_after_blocks(teacher, images), strict=True):
        assert ours.shape == (3, 5, 12)
        count = 0.0
        for a, b in zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True):
            count += (a - b) ** 2
        expected += count / ours.numel()
    value = distiller(images).terms["feature-distillation"].value
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_widths_and_depths_may_differ() -> None:
    student, teacher = vit(8, 2), vit(12, 4)
    method = FeatureDistillation(layers=Layers(match="spread"))
    distiller = Distiller(student, teacher, [method], task_weight=0, example=EXAMPLE)
    assert [(layer.in_features, layer.out_features) for layer in distiller.parts["feature-distillation"]] == [
        (8, 12)
    ] * 2
    distiller(IMAGES).loss.backward()
    assert all(p.grad is not None for p in distiller.parts.parameters())
    with pytest.raises(ValueError, match="the student has 2 layers, the teacher 4"):
        Distiller(student, teacher, [FeatureDistillation()], example=EXAMPLE)


def test_the_last_block_alone_may_be_compared() -> None:
    student, teacher = vit(), vit()
    method = FeatureDistillation(layers=Layers(last=1))
    Distiller(student, teacher, [method], task_weight=0, example=EXAMPLE)(IMAGES).loss.backward()
    assert student.blocks[0].mlp.fc1.weight.grad is not None
    method = FeatureDistillation(layers=Layers(first=1))
    student = vit()
    Distiller(student, teacher, [method], task_weight=0, example=EXAMPLE)(IMAGES).loss.backward()
    assert student.blocks[1].mlp.fc1.weight.grad is None


def test_networks_that_cannot_be_compared_are_refused() -> None:
    student = vit(class_token=False, global_pool="avg")
    with pytest.raises(ValueError, match=r"layer 0 the teacher gives \(2, 5, 12\), the student \(2, 4, 12\)"):
        Distiller(student, vit(), [FeatureDistillation()], example=EXAMPLE)
    with pytest.raises(ValueError, match=r"the student has none that are known.*AttentionTransfer"):
        Distiller(build("resnet8", 4), vit(), [FeatureDistillation()], example=EXAMPLE)
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(vit(), None, [FeatureDistillation()], example=EXAMPLE)


def test_modules_may_be_named() -> None:
    student, teacher = vit(), vit()
    layers = Layers(student_modules=("blocks.0.mlp",), teacher_modules=("blocks.1.mlp",))
    distiller = Distiller(student, teacher, [FeatureDistillation(layers=layers)], task_weight=0, example=EXAMPLE)
    seen: dict[str, torch.Tensor] = {}
    student.blocks[0].mlp.register_forward_hook(lambda m, a, out: seen.update(student=out))
    teacher.blocks[1].mlp.register_forward_pre_hook(
        lambda m, args: seen.update(teacher=teacher.blocks[1].mlp.fc1(*args))
    )
    value = distiller(IMAGES).loss
    taught = teacher.blocks[1].mlp
    wanted = taught.fc2(taught.act(seen["teacher"]))
    torch.testing.assert_close(value, (seen["student"] - wanted).square().mean())
