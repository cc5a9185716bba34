"""Proving a distiller leaves nothing behind."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attention_transfer import AttentionTransfer, Distiller, SoftTargets, build
from attention_transfer.data.batch import Batch
from attention_transfer.methods import Observed, Term

EXAMPLE = torch.empty(2, 3, 16, 16)


def pair() -> tuple[nn.Module, nn.Module]:
    return build("resnet8", 4), build("resnet14", 4)


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
