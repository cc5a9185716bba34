"""Proving a distiller leaves nothing behind."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import timm
import torch
from tests.known import embedded
from tests.trained import as_trained
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attention_transfer import AttentionDistillation, AttentionTransfer, Distiller, SoftTargets, build
from attention_transfer.batch import Batch
from attention_transfer.capture import CaptureError
from attention_transfer.methods import Observed, Term

EXAMPLE = torch.empty(2, 3, 16, 16)


def pair() -> tuple[nn.Module, nn.Module]:
    return build("resnet8", 4), as_trained(build("resnet14", 4))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(4)


@dataclass(frozen=True)
class Remembering(SoftTargets):
    """Soft targets whose part counts the batches that it has seen."""

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        return nn.BatchNorm1d(1, affine=False)

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        assert parts is not None
        parts(batch.image.flatten(1)[:, :1])
        return super().terms(batch, teacher, student, parts)


def test_parts_remember_nothing_of_the_noise_that_they_were_proved_on() -> None:
    student, teacher = pair()
    distiller = Distiller(student, teacher, [Remembering()], example=EXAMPLE)
    part = distiller.parts["kd"]
    assert int(part.num_batches_tracked) == 0
    assert torch.equal(part.running_var, torch.ones(1))
    distiller(*batch())
    assert int(part.num_batches_tracked) == 1


def test_it_can_be_built_where_gradients_are_off() -> None:
    with torch.no_grad():
        distiller = Distiller(*pair(), [AttentionTransfer()], example=EXAMPLE)
    assert distiller(*batch()).loss.requires_grad


class CheckpointedInTraining(nn.Module):
    """A transformer whose blocks are checkpointed the old way, and only while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=4
        )
        self.blocks = self.network.blocks

    def forward(self, image: Tensor) -> Tensor:
        x = embedded(self.network, image)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=True) if self.training else block(x)
        return self.network.head(x[:, 0])


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_student_is_proved_as_it_will_be_trained() -> None:
    student = CheckpointedInTraining().eval()
    with pytest.raises(CaptureError, match=r"carries no gradient.*use_reentrant=True"):
        Distiller(student, CheckpointedInTraining(), [AttentionDistillation()], example=EXAMPLE)
    assert not student.training


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_student_that_is_checkpointed_the_old_way_later_is_refused_in_the_step() -> None:
    student, teacher = (as_trained(CheckpointedInTraining()) for _ in range(2))
    forward = student.forward
    student.forward = lambda image: _without_checkpoints(student, image)
    distiller = Distiller(student, teacher, [AttentionDistillation()], example=EXAMPLE)
    distiller(*batch())
    student.forward = forward
    with pytest.raises(CaptureError, match=r"the term 'attention-distillation' had a gradient .* and has none now"):
        distiller(*batch())


def _without_checkpoints(student: CheckpointedInTraining, image: Tensor) -> Tensor:
    x = embedded(student.network, image)
    for block in student.blocks:
        x = block(x)
    return student.network.head(x[:, 0])


def test_a_detached_distiller_says_so() -> None:
    distiller = Distiller(*pair(), [AttentionTransfer()], example=EXAMPLE)
    distiller.detach()
    with pytest.raises(ValueError, match="this distiller was detached from its networks: build a new one"):
        distiller(*batch())
