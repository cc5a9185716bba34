"""A teacher that runs in training mode keeps what it learned."""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from attention_transfer import Distiller, SoftTargets

EXAMPLE = torch.empty(2, 3, 16, 16)
Pair = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class InTraining(SoftTargets):
    """Soft targets of a teacher whose batch norm follows the batch."""

    @property
    def teacher_mode(self) -> Literal["eval", "train", "same noise"]:
        return "train"


def test_batch_norm_takes_the_statistics_of_the_batch_and_learns_none(small_pair: Pair) -> None:
    student, teacher = small_pair
    before = copy.deepcopy(teacher.state_dict())
    images = 3 * torch.randn(6, 3, 16, 16) + 1
    wanted = copy.deepcopy(teacher).train()(images)
    distiller = Distiller(student, teacher, [InTraining()], example=EXAMPLE)
    for _ in range(2):
        found = distiller(images, torch.zeros(6, dtype=torch.int64)).teacher_logits
        torch.testing.assert_close(found, wanted)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_it_learns_again_once_it_is_let_go(small_pair: Pair) -> None:
    student, teacher = small_pair
    Distiller(student, teacher, [InTraining()], example=EXAMPLE).detach()
    norm = next(module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    teacher.train()(torch.randn(6, 3, 16, 16) + 1)
    assert not torch.equal(norm.running_mean, before)
