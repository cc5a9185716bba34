"""Methods between transformers: every token after every block, the same drop path, masks, and many tokens."""

from typing import Any

import pytest
import timm
import torch
from tests.methods.test_attention_copy import EXAMPLE, IMAGES, LABELS, vit
from tests.methods.test_attention_distillation import IMAGES as TWO_IMAGES
from tests.methods.test_attention_distillation import LABELS as TWO_LABELS
from tests.methods.test_attention_distillation import step, transformer
from tests.trained import as_trained
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models import SwinTransformer

from attention_transfer import Distiller, build
from attention_transfer.analysis.peak_memory import peak_bytes
from attention_transfer.methods.attention_copy import AttentionCopy
from attention_transfer.methods.attention_distillation import AttentionDistillation
from attention_transfer.methods.attention_maps.cross_entropy import Form
from attention_transfer.methods.feature_distillation import FeatureDistillation
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.models.build import from_transformers_config


def small_vit(width: int = 12, depth: int = 2, **settings: object) -> VisionTransformer:
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
    student, teacher = small_vit().double(), small_vit().double().eval()
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
    student, teacher = small_vit(8, 2), small_vit(12, 4)
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
    student, teacher = small_vit(), small_vit()
    method = FeatureDistillation(layers=Layers(last=1))
    Distiller(student, teacher, [method], task_weight=0, example=EXAMPLE)(IMAGES).loss.backward()
    assert student.blocks[0].mlp.fc1.weight.grad is not None
    method = FeatureDistillation(layers=Layers(first=1))
    student = small_vit()
    Distiller(student, teacher, [method], task_weight=0, example=EXAMPLE)(IMAGES).loss.backward()
    assert student.blocks[1].mlp.fc1.weight.grad is None


def test_networks_that_cannot_be_compared_are_refused() -> None:
    student = small_vit(class_token=False, global_pool="avg")
    with pytest.raises(ValueError, match=r"layer 0 the teacher gives \(2, 5, 12\), the student \(2, 4, 12\)"):
        Distiller(student, small_vit(), [FeatureDistillation()], example=EXAMPLE)
    with pytest.raises(ValueError, match=r"the student has none that are known.*AttentionTransfer"):
        Distiller(build("resnet8", 4), small_vit(), [FeatureDistillation()], example=EXAMPLE)
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(small_vit(), None, [FeatureDistillation()], example=EXAMPLE)


def test_modules_may_be_named() -> None:
    student, teacher = small_vit(), small_vit()
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


# ---------------------------------------------------------------- teacher and student that drop the same residuals


@pytest.mark.parametrize("same", [True, False])
def test_teacher_and_student_drop_the_same_residuals_where_asked(same: bool) -> None:
    # The rate rises with depth, from none in the first block.
    student, teacher = (vit(0, depth=3, drop_path_rate=0.6) for _ in range(2))
    distiller = Distiller(student, teacher, [AttentionCopy(same_drop_path=same)], example=EXAMPLE).train()
    assert teacher.training == same
    seen: dict[str, Tensor] = {}
    student.blocks[2].norm1.register_forward_hook(lambda m, a, out: seen.update(student=out))
    teacher.blocks[2].norm1.register_forward_hook(lambda m, a, out: seen.update(teacher=out))
    torch.manual_seed(3)
    distiller(IMAGES.repeat(4, 1, 1, 1), LABELS.repeat(4))
    assert torch.allclose(seen["student"], seen["teacher"], atol=1e-5) == same
    distiller.eval()
    assert not teacher.training


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        # Drawn after the last residual.
        ({"drop_rate": 0.3}, {}),
        # The same numbers of both.
        ({"proj_drop_rate": 0.3}, {"proj_drop_rate": 0.3}),
    ],
)
def test_other_dropout_may_be_where_it_shifts_no_mask(student: dict[str, Any], teacher: dict[str, Any]) -> None:
    networks = (vit(0, depth=3, drop_path_rate=0.6, **each) for each in (student, teacher))
    ours, theirs = networks
    distiller = Distiller(ours, theirs, [AttentionCopy(same_drop_path=True)], example=EXAMPLE).train()
    seen: dict[str, Tensor] = {}
    ours.blocks[2].norm1.register_forward_hook(lambda m, a, out: seen.update(student=out))
    theirs.blocks[2].norm1.register_forward_hook(lambda m, a, out: seen.update(teacher=out))
    torch.manual_seed(3)
    distiller(IMAGES.repeat(4, 1, 1, 1), LABELS.repeat(4))
    torch.testing.assert_close(seen["student"], seen["teacher"], atol=1e-5, rtol=1e-5)


def test_a_teacher_that_drops_from_maps_that_it_writes_out_is_refused() -> None:
    def swin(dropout: float) -> nn.Module:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"patch_size": [4, 4], "embed_dim": 12, "depths": [2], "num_heads": [2]}
        return as_trained(SwinTransformer(**sizes, window_size=[4, 4], attention_dropout=dropout, num_classes=4))

    method = AttentionDistillation(same_drop_path=True, form="explicit")
    Distiller(swin(0.0), swin(0.0), [method], example=EXAMPLE)
    with pytest.raises(ValueError, match="of the teacher drops 50% of its weights at random"):
        Distiller(swin(0.5), swin(0.5), [method], example=EXAMPLE)
    # One that is only evaluated drops nothing.
    Distiller(swin(0.0), swin(0.5), [AttentionDistillation(form="explicit")], example=EXAMPLE)


def test_residuals_of_transformers_are_dropped_alike() -> None:
    pytest.importorskip("transformers")
    sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}

    def make(rate: float) -> nn.Module:
        torch.manual_seed(0)
        settings = {"model_type": "dinov2", "drop_path_rate": rate, **sizes}
        return as_trained(from_transformers_config(settings, 4, None))

    method = AttentionCopy(same_drop_path=True)
    Distiller(make(0.5), make(0.5), [method], example=EXAMPLE)
    with pytest.raises(ValueError, match=r"at most 0\.5, the teacher \d, at most 0\.25"):
        Distiller(make(0.5), make(0.25), [method], example=EXAMPLE)


def test_the_same_residuals_want_the_same_rates_and_leave_running_statistics_alone() -> None:
    method = AttentionCopy(same_drop_path=True)
    with pytest.raises(ValueError, match=r"the student has 2 drop paths, at most 0.5, the teacher 0"):
        Distiller(vit(0, drop_path_rate=0.5), vit(1), [method], example=EXAMPLE)
    teacher = nn.Sequential(nn.BatchNorm2d(3), vit(1))
    distiller = Distiller(vit(0), teacher, [method], example=EXAMPLE)
    before = teacher[0].running_mean.clone()
    distiller(IMAGES, LABELS)
    assert torch.equal(teacher[0].running_mean, before)
    assert teacher[1].training


# ---------------- attention distillation between networks with masks, and of many tokens

CAUSAL = torch.ones(17, 17).tril() > 0


class Masked(nn.Module):
    """A transformer whose tokens may not see all others."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        # A class token that comes first would see nothing of the image.
        self.vit = transformer(global_pool="avg")
        self.register_buffer("mask", mask)

    def forward(self, image: Tensor) -> Tensor:
        return self.vit(image, attn_mask=self.mask)


@pytest.mark.parametrize("form", ["auto", "explicit"])
@pytest.mark.parametrize("settings", [{}, {"mix_layers": True}, {"average": ("queries",)}])
def test_a_student_that_may_not_see_what_its_teacher_sees_is_refused(settings: dict[str, Any], form: Any) -> None:
    method = AttentionDistillation(form=form, **settings)
    with pytest.raises(ValueError, match=r"attention-distillation is inf on noise.*may the student see all that its"):
        Distiller(Masked(CAUSAL), transformer(), [method], example=TWO_IMAGES)


@pytest.mark.parametrize("form", ["auto", "explicit"])
@pytest.mark.parametrize(
    "mask", [CAUSAL, CAUSAL.repeat(1, 3, 1, 1), torch.stack([CAUSAL, CAUSAL, torch.ones(17, 17) > 0])[None]]
)
def test_networks_of_the_same_masks_are_compared_where_both_see(mask: Tensor, form: Any) -> None:
    student = Masked(mask)
    _, found = step(Masked(mask), student, form=form)
    assert found.isfinite()
    assert student.vit.blocks[0].attn.qkv.weight.grad.isfinite().all()
    # A teacher that sees less is no reason against a student that sees all.
    _, found = step(Masked(mask), transformer(), form=form)
    assert found.isfinite()


def step_memory(side: int, form: Form) -> int:
    """Peak of one training step, in bytes, for images of so many patches squared."""
    student, teacher = (transformer(img_size=2 * side, patch_size=2) for _ in range(2))
    images = torch.randn(1, 3, 2 * side, 2 * side)
    distiller = Distiller(student, teacher, [AttentionDistillation(form=form)], example=images)
    held = [*student.parameters(), *teacher.parameters(), images]
    return peak_bytes(
        held, torch.device("cpu"), lambda: None, lambda: distiller.backward(distiller(images, TWO_LABELS[:1]))
    )


def test_memory_of_a_step_grows_with_the_tokens_and_not_with_their_square() -> None:
    # Four times as many tokens, sixteen times as large maps.
    assert step_memory(32, "auto") < 4.2 * step_memory(16, "auto")
    assert step_memory(32, "explicit") > 8 * step_memory(16, "explicit")
