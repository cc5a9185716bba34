"""Hints: the regressor, the layers, and the two stages."""

from collections.abc import Callable
from typing import Literal

import pytest
import timm
import torch
from tests.conftest import SmallNet
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import Distiller, FitNet, SoftTargets, build, describe
from attention_transfer.methods.fitnet import Regressor, hint_distance
from attention_transfer.models.meta_networks import outline

EXAMPLE = torch.empty(2, 3, 16, 16)
Form = Literal["code", "paper"]


def regressor(given: tuple[int, int, int], wanted: tuple[int, int, int], **settings: bool) -> Regressor:
    torch.manual_seed(0)
    settings = {"batch_norm": True, "rectify": True} | settings
    return Regressor(torch.Size(given), torch.Size(wanted), **settings)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_distance_is_the_benchmarks_or_the_papers(form: Form) -> None:
    torch.manual_seed(0)
    student, teacher = (
        torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True),
        torch.randn(3, 2, 4, 4).double(),
    )
    squares = [(a - b) ** 2 for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)]
    wanted = sum(squares) / len(squares) if form == "code" else sum(squares) / 2 / 3
    assert hint_distance(student, teacher, form).item() == pytest.approx(wanted, rel=1e-12)
    assert torch.autograd.gradcheck(lambda s: hint_distance(s, teacher, form), student)


@pytest.mark.parametrize(
    ("given", "wanted", "convolution"),
    [
        ((4, 8, 8), (6, 8, 8), "Conv2d(4, 6, kernel_size=(1, 1), stride=(1, 1))"),
        ((4, 8, 8), (6, 4, 4), "Conv2d(4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))"),
        ((4, 7, 7), (6, 14, 14), "ConvTranspose2d(4, 6, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))"),
        ((4, 2, 2), (4, 1, 1), "Conv2d(4, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))"),
        ((4, 28, 28), (6, 7, 7), "Conv2d(4, 6, kernel_size=(1, 1), stride=(1, 1))"),
        ((4, 3, 5), (6, 14, 4), "Conv2d(4, 6, kernel_size=(1, 1), stride=(1, 1))"),
        ((4, 1, 1), (6, 7, 5), "Conv2d(4, 6, kernel_size=(1, 1), stride=(1, 1))"),
    ],
)
def test_any_size_is_brought_to_any_other(
    given: tuple[int, int, int], wanted: tuple[int, int, int], convolution: str
) -> None:
    module = regressor(given, wanted)
    assert str(module.convolution) == convolution
    features = torch.randn(2, *given)
    assert module(features).shape == (2, *wanted)
    assert module(features.half()).dtype == torch.float32


def test_other_sizes_are_averaged_over_areas_before_the_convolution() -> None:
    module = regressor((2, 4, 4), (3, 1, 1), batch_norm=False, rectify=False)
    features = torch.randn(2, 2, 4, 4)
    torch.testing.assert_close(module(features), module.convolution(features.mean((2, 3), keepdim=True)))


def test_what_follows_the_convolution_may_be_left_out() -> None:
    features = torch.randn(4, 2, 3, 3)
    plain = regressor((2, 3, 3), (5, 3, 3), batch_norm=False, rectify=False)
    torch.testing.assert_close(plain(features), plain.convolution(features))
    normed = regressor((2, 3, 3), (5, 3, 3), rectify=False)(features)
    torch.testing.assert_close(normed.mean((0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(regressor((2, 3, 3), (5, 3, 3))(features), normed.relu())


@pytest.mark.parametrize(
    ("student", "teacher", "places"),
    [
        ("resnet8", "resnet8x4", ("layer2", "layer2")),
        ("mobilenetv2_half", "vgg8", ("blocks.2", "block2")),
        ("shufflenetv1", "resnet50_cifar", ("layer2", "layer3")),
    ],
)
def test_the_middle_stages_are_compared(student: str, teacher: str, places: tuple[str, str]) -> None:
    reads = FitNet().reads(*(describe(outline(lambda name=name: build(name, 5))) for name in (teacher, student)))
    assert ([tap.module for tap in reads.student.taps], [tap.module for tap in reads.teacher.taps]) == (
        [places[0]],
        [places[1]],
    )


def test_others_may_be_chosen(small_pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = small_pair
    distiller = Distiller(student, teacher, [FitNet(stages=(0, -1))], task_weight=0, example=EXAMPLE).eval()
    images = torch.randn(3, 3, 16, 16)
    first = student.layer1(images), teacher.eval().layer1(images)
    pairs = [first, (student.layer2(first[0]), teacher.layer2(first[1]))]
    wanted = [
        (module(ours) - theirs).square().mean()
        for module, (ours, theirs) in zip(distiller.parts["fitnet"], pairs, strict=True)
    ]
    term = distiller(images).terms["fitnet"]
    assert term.weight == 100
    torch.testing.assert_close(term.value, wanted[0] + wanted[1])
    term.value.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in distiller.parts.parameters())
    distiller.detach()
    named = FitNet(student_layers=("layer2",), teacher_layers=("layer1",))
    (reads,) = Distiller(student, teacher, [named], example=EXAMPLE).reads
    assert (reads.student.taps[0].module, reads.teacher.taps[0].module) == ("layer2", "layer1")


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2)


@pytest.mark.filterwarnings("ignore:the student is larger")
@pytest.mark.parametrize(
    ("teacher", "rectify"),
    [
        (lambda: build("wrn_16_1", 5), True),
        (lambda: build("mobilenetv2_half", 5), False),
        (vit, False),
    ],
)
def test_the_regressor_is_rectified_where_the_teacher_is(teacher: Callable[[], nn.Module], rectify: bool) -> None:
    distiller = Distiller(build("resnet8", 5), as_trained(teacher()), [FitNet()], example=EXAMPLE)
    (method,) = distiller.methods
    assert isinstance(method, FitNet)
    assert method.rectify is rectify
    assert isinstance(distiller.parts["fitnet"][0].activation, nn.ReLU if rectify else nn.Identity)


def two_stages(small_pair: tuple[nn.Module, nn.Module]) -> Distiller:
    return Distiller(*small_pair, [FitNet(stages=(0,), hint_epochs=2), SoftTargets()], example=EXAMPLE)


def test_the_first_stage_learns_from_the_hint_alone_and_the_second_without_it(
    small_pair: tuple[nn.Module, nn.Module],
) -> None:
    distiller, batch = two_stages(small_pair), (torch.randn(4, 3, 16, 16), torch.arange(4))
    hint, task = distiller.phases
    assert (hint.epochs, task.epochs) == (2, None)
    moved: dict[str, set[str]] = {}
    for phase in (hint, task):
        distiller.zero_grad()
        distiller.set_phase(phase)
        out = distiller(*batch)
        distiller.backward(out)
        gradients = {name: p.grad for name, p in distiller.named_parameters()}
        moved[phase.name] = {name.rpartition(".")[0] for name, g in gradients.items() if g is not None and g.any()}
        assert set(out.terms) == ({"fitnet"} if phase is hint else {"ce", "kd"})
    first = {"student.layer1.0.0", "student.layer1.0.1"}
    assert moved["hint"] == first | {"parts.fitnet.0.convolution", "parts.fitnet.0.norm"}
    assert moved["task"] == first | {"student.layer2.0.0", "student.fc"}


def test_a_second_stage_without_anything_to_learn_is_refused(small_pair: tuple[nn.Module, nn.Module]) -> None:
    with pytest.raises(ValueError, match="nothing is learned in the phase 'task', which leaves out fitnet"):
        Distiller(*small_pair, [FitNet(hint_epochs=2)], task_weight=0, example=EXAMPLE)


def test_what_does_not_fit_is_refused() -> None:
    for settings, message in (
        ({"hint_epochs": 0}, "hint_epochs must be at least 1"),
        ({"hint_learning_rate": 0.1}, "give hint_epochs too"),
        ({"stages": ()}, "at least one"),
        ({"student_layers": ("layer1",)}, "must pair up"),
    ):
        with pytest.raises(ValueError, match=message):
            FitNet(**settings)
    with pytest.raises(ValueError, match="hints need a teacher"):
        Distiller(SmallNet(), None, [FitNet()], example=EXAMPLE)
    with pytest.raises(ValueError, match="there is no stage 2"):
        Distiller(SmallNet(), SmallNet(), [FitNet(stages=(2,))], example=EXAMPLE)


def test_the_distiller_may_change_its_type(small_pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = (network.double() for network in small_pair)
    distiller = Distiller(student, teacher, [FitNet()], task_weight=0, example=EXAMPLE.double())
    images: Tensor = torch.randn(2, 3, 16, 16)
    assert distiller(images.double()).loss.dtype == torch.float64
    value = distiller.to(torch.bfloat16)(images.bfloat16()).loss
    assert value.dtype == torch.float32
    assert value.isfinite()
