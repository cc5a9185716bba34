"""Attention distillation between networks with masks, and of many tokens."""

from typing import Any

import pytest
import torch
from tests.methods.test_attention_distillation import IMAGES, LABELS, step, transformer
from torch import Tensor, nn

from attention_transfer import Distiller
from attention_transfer.analysis.peak_memory import peak_bytes
from attention_transfer.methods.attention_distillation import AttentionDistillation
from attention_transfer.methods.attention_maps.cross_entropy import Form

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
        Distiller(Masked(CAUSAL), transformer(), [method], example=IMAGES)


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
        held, torch.device("cpu"), lambda: None, lambda: distiller.backward(distiller(images, LABELS[:1]))
    )


def test_memory_of_a_step_grows_with_the_tokens_and_not_with_their_square() -> None:
    # Four times as many tokens, sixteen times as large maps.
    assert step_memory(32, "auto") < 4.2 * step_memory(16, "auto")
    assert step_memory(32, "explicit") > 8 * step_memory(16, "explicit")
