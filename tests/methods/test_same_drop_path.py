"""Teacher and student that drop the same residuals."""

from typing import Any

import pytest
import torch
from tests.methods.test_attention_copy import EXAMPLE, IMAGES, LABELS, vit
from tests.trained import as_trained
from torch import Tensor, nn
from torchvision.models import SwinTransformer

from attention_transfer import Distiller
from attention_transfer.methods.attention_copy import AttentionCopy
from attention_transfer.methods.attention_distillation import AttentionDistillation
from attention_transfer.models.build import from_transformers_config


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
