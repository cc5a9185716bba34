"""A teacher that runs in training mode keeps what it learned."""

import copy
from dataclasses import dataclass
from typing import Literal

import timm
import torch
from tests.trained import as_trained
from torch import nn

from attention_transfer import AttentionCopy, Distiller, Overhaul, SoftTargets

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


def test_what_is_measured_is_of_the_teacher_as_it_is_used(small_pair: Pair) -> None:
    student, teacher = small_pair
    images = 3 * torch.randn(6, 3, 16, 16) + 1
    wanted = copy.deepcopy(teacher).eval()(images)
    distiller = Distiller(student, teacher, [InTraining()], example=EXAMPLE).eval()
    found = distiller(images, torch.zeros(6, dtype=torch.int64)).teacher_logits
    torch.testing.assert_close(found, wanted)


def test_a_student_that_needs_its_teacher_answers_the_same_each_time() -> None:
    settings = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
    torch.manual_seed(0)
    student, teacher = (
        as_trained(timm.create_model("vit_tiny_patch16_224", drop_path_rate=rate, **settings)) for rate in (0.0, 0.9)
    )
    distiller = Distiller(student, teacher, [AttentionCopy(), Overhaul()], example=EXAMPLE)
    assert teacher.training
    images = torch.randn(8, 3, 16, 16)
    deployed = distiller.deployed.eval()
    assert torch.equal(deployed(images), deployed(images))


def test_it_learns_again_once_it_is_let_go(small_pair: Pair) -> None:
    student, teacher = small_pair
    Distiller(student, teacher, [InTraining()], example=EXAMPLE).detach()
    norm = next(module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    teacher.train()(torch.randn(6, 3, 16, 16) + 1)
    assert not torch.equal(norm.running_mean, before)
