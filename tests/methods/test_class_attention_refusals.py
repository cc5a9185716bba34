"""What class attention refuses, and how it says so."""

from typing import Any

import pytest
import torch
from tests.methods.test_class_attention import Pooled
from tests.trained import as_trained
from torch import Tensor

from attention_transfer import Distiller, build
from attention_transfer.capture import CaptureError
from attention_transfer.methods import ClassAttention


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resolution": 0}, "resolution must be at least 1, not 0"),
        ({"top": 0}, "top must be between 1"),
        ({"lowest": -1}, "lowest must be between 1"),
        ({"top": 1, "lowest": 1}, "not both"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClassAttention(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resolution": 9}, "resolution 9 is larger than the teacher's maps of 8×8: give at most 8"),
        ({"top": 5}, "top must be between 1 and the 4 classes, not 5"),
        ({"lowest": 5}, "lowest must be between 1 and the 4 classes, not 5"),
        ({"resolution": 1, "normalise": "l2"}, "one position"),
    ],
)
def test_settings_that_do_not_fit_the_networks_are_refused(settings: dict[str, Any], words: str) -> None:
    student, teacher = build("resnet8", 4), as_trained(build("resnet14", 4))
    with pytest.raises(ValueError, match=words):
        Distiller(student, teacher, [ClassAttention(**settings)], example=torch.empty(2, 3, 32, 32))


def test_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="the teacher has 5, the student 4"):
        Distiller(build("resnet8", 4), build("resnet8", 5), [ClassAttention()], example=torch.empty(2, 3, 32, 32))


def test_a_teacher_is_needed() -> None:
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(build("resnet8", 4), None, [ClassAttention()], example=torch.empty(2, 3, 32, 32))


def test_a_network_of_another_form_is_refused_with_the_reason() -> None:
    """MobileNetV3 puts a convolution between pooling and head."""
    with pytest.raises(ValueError, match=r"the teacher has no class maps.*conv_head"):
        Distiller(
            build("resnet8", 4),
            build("timm:mobilenetv3_small_050", 4),
            [ClassAttention()],
            example=torch.empty(2, 3, 64, 64),
        )


class Strongest(Pooled):
    """The same with global max pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).amax((2, 3)))


@pytest.mark.filterwarnings("ignore:the student is larger")
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_layer_that_is_named_must_be_what_the_head_pools(role: str) -> None:
    torch.manual_seed(0)
    networks = {"student": build("resnet8", 4), "teacher": as_trained(build("resnet8", 4))}
    method = ClassAttention(**{f"{role}_layer": "features"})
    example = torch.empty(2, 3, 32, 32)
    fit, unfit = networks | {role: Pooled(4)}, networks | {role: Strongest(4)}
    Distiller(fit["student"], fit["teacher"], [method], example=example)
    with pytest.raises(CaptureError, match=f"{role} has no class maps at features"):
        Distiller(unfit["student"], unfit["teacher"], [method], example=example)
