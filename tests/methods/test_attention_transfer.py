"""Attention transfer against the authors' values and a slow loop, and what it and class attention refuse."""

import math
from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from tests.methods.test_class_attention import Pooled
from tests.trained import as_trained
from torch import Tensor

from attention_transfer import Distiller, build
from attention_transfer.batch import Batch
from attention_transfer.capture import CaptureError
from attention_transfer.methods import AttentionTransfer, ClassAttention, Observed
from attention_transfer.methods.attention_transfer import map_distance
from attention_transfer.methods.layers.maps import attention_map, same_size
from attention_transfer.models.introspection.description import Description


def loss(method: AttentionTransfer, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    batch = Batch(torch.zeros(len(student[0]), 3, 1, 1))
    terms = method.terms(batch, Observed(None, tuple(teacher)), Observed(None, tuple(student)), None)
    return terms["at"].value


@pytest.mark.parametrize(("form", "key"), [("code", "at_code"), ("paper", "at_paper_sum_of_norms")])
def test_value_and_gradients_are_those_of_the_authors(form: str, key: str, golden: dict[str, Tensor]) -> None:
    student = [golden[f"student_feature{i}"].clone().requires_grad_() for i in range(3)]
    teacher = [golden[f"teacher_feature{i}"] for i in range(3)]
    value = loss(AttentionTransfer(form=form), student, teacher)
    value.backward()
    assert_near(value, golden[key])
    for i in range(3):
        assert_near(student[i].grad, golden[f"{key}.grad.student_feature{i}"])


def slow_map(features: Tensor, power: float, kind: str) -> Tensor:
    """F_sum^p or F_max^p of one image, position by position, divided by its L2 norm."""
    channels, height, width = features.shape
    flat = []
    for y in range(height):
        for x in range(width):
            values = [abs(float(features[c, y, x])) ** power for c in range(channels)]
            flat.append(sum(values) if kind == "sum" else max(values))
    norm = math.sqrt(sum(value * value for value in flat))
    return torch.tensor([value / norm for value in flat], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["sum", "max"])
@pytest.mark.parametrize("power", [1, 1.5, 2, 3, 4])
def test_map_equals_a_loop_written_from_the_paper(kind: str, power: float) -> None:
    features = torch.randn(3, 5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    maps = attention_map(features, power, kind)
    for image, found in zip(features, maps, strict=True):
        assert_near(found, slow_map(image, power, kind))


@pytest.mark.parametrize("form", ["code", "paper"])
def test_distance_equals_a_loop_written_from_the_paper(form: str) -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(4, 9, dtype=torch.float64, generator=generator) for _ in range(2))
    total = 0.0
    for image in range(4):
        squares = [float(student[image, i] - teacher[image, i]) ** 2 for i in range(9)]
        total += sum(squares) / 9 if form == "code" else math.sqrt(sum(squares))
    assert float(map_distance(student, teacher, form)) == pytest.approx(total / 4, rel=1e-12)


@pytest.mark.parametrize("kind", ["sum", "max"])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_gradient_is_right_in_double_precision(kind: str, power: float) -> None:
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(2, 4, 2, 2, dtype=torch.float64, generator=generator)
    method = AttentionTransfer(power=power, kind=kind)
    assert torch.autograd.gradcheck(lambda s: loss(method, [s], [teacher]), (student,))
    if kind == "sum":
        assert torch.autograd.gradgradcheck(lambda s: loss(method, [s], [teacher]), (student,))


def test_odd_powers_take_the_absolute_value() -> None:
    features = torch.tensor([[[[-2.0, 1.0]]]])
    torch.testing.assert_close(attention_map(features, 3), torch.tensor([[8.0, 1.0]]) / math.sqrt(65))


def test_larger_features_are_averaged_to_the_smaller_size_in_each_direction() -> None:
    wide, high = torch.arange(16.0).reshape(1, 1, 2, 8), torch.ones(1, 2, 4, 4)
    first, second = same_size(wide, high)
    assert first.shape == (1, 1, 2, 4)
    assert second.shape == (1, 2, 2, 4)
    torch.testing.assert_close(first[0, 0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))


def test_a_layer_without_activation_gives_finite_gradients() -> None:
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for form in ("code", "paper"):
        value = loss(AttentionTransfer(form=form), [student], [torch.randn(2, 3, 4, 4)])
        (gradient,) = torch.autograd.grad(value, student)
        assert gradient.isfinite().all()


def test_equal_maps_cost_nothing_and_pull_nowhere() -> None:
    features = torch.randn(2, 3, 4, 4)
    student = features.clone().requires_grad_()
    value = loss(AttentionTransfer(form="paper"), [student], [features])
    (gradient,) = torch.autograd.grad(value, student)
    assert float(value.detach()) == 0
    assert float(gradient.abs().max()) == 0


def test_half_precision_features_are_compared_in_float32() -> None:
    features = torch.randn(2, 8, 4, 4) * 300  # squares overflow float16
    assert attention_map(features.half()).dtype == torch.float32
    torch.testing.assert_close(attention_map(features.half()), attention_map(features), rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"power": 0.5}, "power must be a finite number of at least 1"),
        ({"weight": -1.0}, "the weight of at must be"),
        ({"student_layers": ("a",)}, "must pair up"),
        ({"stages": ()}, "at least one"),
    ],
)
def test_impossible_settings_are_refused(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AttentionTransfer(**fields)


def test_maps_of_one_position_are_refused_for_they_teach_nothing() -> None:
    student, teacher = torch.randn(2, 3, 1, 1), torch.randn(2, 5, 2, 2)
    assert float(loss(AttentionTransfer(), [student], [teacher])) == 0
    with pytest.raises(ValueError, match="the maps of pair 0 have one position"):
        AttentionTransfer().check(Observed(None, (teacher,)), Observed(None, (student,)))


def test_a_network_without_known_stages_asks_for_module_paths() -> None:
    with pytest.raises(ValueError, match="name module paths with student_layers"):
        AttentionTransfer().reads(Description(stages=()), Description(stages=()))


# ---------------------------------------------------------------- what class attention refuses, and how it says so


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resolution": 0}, "resolution must be at least 1, not 0"),
        ({"top": 0}, "top must be between 1"),
        ({"lowest": -1}, "lowest must be between 1"),
        ({"top": 1, "lowest": 1}, "not both"),
    ],
)
def test_impossible_settings_of_class_attention_are_refused(settings: dict[str, int], words: str) -> None:
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
