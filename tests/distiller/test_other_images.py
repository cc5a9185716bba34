"""Images that are no tensors of three channels: other channels, volumes, and lists of images of several sizes."""

from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from tests.distiller.test_any_task import LABELS, LAYER, Segmenting
from tests.trained import as_trained
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import (
    AttentionTransfer,
    ClassAttention,
    Distiller,
    FitNet,
    Input,
    InputError,
    Method,
    Relational,
    SoftTargets,
)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_and_of_two_sides_are_learned_from(channels: int) -> None:
    torch.manual_seed(0)
    networks = Segmenting(4, channels=channels), Segmenting(8, channels=channels)
    inputs = Input((0.5,) * channels, (0.5,) * channels), Input((0.0,) * channels, (1.0,) * channels)
    distiller = Distiller(
        *networks,
        [LAYER, SoftTargets()],
        example=torch.empty(2, channels, 16, 24),
        student_input=inputs[0],
        teacher_input=inputs[1],
    )
    out = distiller(torch.randn(4, channels, 16, 24), torch.randint(0, 5, (4, 16, 24)))
    assert torch.isfinite(out.loss)


class Volumes(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv3d(3, width, 3, (1, 2, 2), 1), nn.BatchNorm3d(width), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv3d(width, 2 * width, 3, 2, 1), nn.BatchNorm3d(2 * width), nn.ReLU())
        self.fc = nn.Linear(2 * width, 5)
        as_trained(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(images)).mean((2, 3, 4)))


@pytest.mark.parametrize("method", [AttentionTransfer(), FitNet(), Relational(), SoftTargets()], ids=lambda m: m.key)
def test_volumes_are_learned_from(method: Method) -> None:
    torch.manual_seed(0)
    videos = torch.randn(4, 3, 6, 16, 16)
    distiller = Distiller(Volumes(2), Volumes(4), [method], example=videos[:2], task_weight=0)
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=1e-3)
    losses: list[float] = []
    for _ in range(3):
        out = distiller(videos)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(float(out.loss.detach()))
    assert losses[-1] < losses[0]
    with pytest.raises(InputError, match=r"images must be of shape \(batch, 3, time, height, width\), not"):
        distiller(videos[:, :, 0])


def test_attention_maps_of_volumes_are_over_time_and_place() -> None:
    torch.manual_seed(0)
    distiller = Distiller(Volumes(2), Volumes(4), [AttentionTransfer()], example=torch.empty(2, 3, 6, 16, 16))
    videos = torch.randn(2, 3, 6, 16, 16)
    student, teacher = distiller.student, distiller.teacher
    assert isinstance(teacher, Volumes)
    found = distiller(videos, LABELS[:2]).terms["at"].value
    assert isinstance(student, Volumes)
    total = 0.0
    for stages in ((student.layer1, teacher.layer1), (student.layer2, teacher.layer2)):
        maps: list[Tensor] = []
        for network, stage in zip((student, teacher), stages, strict=True):
            value = network.layer1(videos)
            value = value if stage is network.layer1 else network.layer2(value)
            flat = torch.stack([image.square().mean(0).flatten() for image in value])
            maps.append(torch.stack([each / each.norm() for each in flat]))
        total = total + (maps[0] - maps[1]).square().mean()
    assert_near(found, total)


def test_methods_of_images_refuse_volumes() -> None:
    with pytest.raises(InputError, match=r"cat: ClassAttention is for images, .* not for volumes .*: take at, fitnet"):
        Distiller(Volumes(2), Volumes(4), [ClassAttention()], example=torch.empty(2, 3, 6, 16, 16))


class Detecting(nn.Module):
    """Takes lists of images and, in training, lists of targets; returns losses then, as torchvision's networks do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, 4)
        as_trained(self)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        batch = torch.stack([functional.pad(each, (0, 20 - each.shape[2], 0, 20 - each.shape[1])) for each in images])
        boxes = self.head(self.layer1(batch).mean((2, 3)))
        if not self.training:
            return [{"boxes": each[None]} for each in boxes]
        assert targets is not None, "as torchvision says"
        return {
            "loss_box": torch.stack([
                (b - t["boxes"][0]).abs().mean() for b, t in zip(boxes, targets, strict=True)
            ]).mean()
        }


def test_lists_of_images_and_targets_go_through() -> None:
    torch.manual_seed(0)
    images = [torch.rand(3, 16, 20), torch.rand(3, 18, 12), torch.rand(3, 20, 20)]
    targets = [{"boxes": torch.rand(1, 4)} for _ in images]
    distiller = Distiller(
        Detecting(4),
        Detecting(8),
        [LAYER],
        example=(images[:2], targets[:2]),
        student_takes_labels=True,
        task_loss=lambda output, labels: sum(output.values()),
    )
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.01)
    losses: list[float] = []
    for _ in range(4):
        out = distiller.train()(images, targets)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(float(out.loss.detach()))
    assert losses[-1] < losses[0]
    assert [each["boxes"].shape for each in distiller.eval().predict(images)] == [(1, 4)] * 3
    with pytest.raises(InputError, match="images must be a list of images of shape"):
        distiller(torch.rand(2, 3, 16, 16), targets)
    with pytest.raises(InputError, match=r"and number 1 is \(1, 16, 16\)"):
        distiller([images[0], torch.rand(1, 16, 16)], targets)
    with pytest.raises(InputError, match="not an empty list"):
        distiller([], [])


def test_a_student_that_takes_labels_wants_some_with_the_example() -> None:
    with pytest.raises(InputError, match=r"give example=\(images, labels\)"):
        Distiller(Detecting(4), example=[torch.rand(3, 16, 16)], student_takes_labels=True, task_loss=lambda o, y: o)
