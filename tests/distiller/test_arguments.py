"""What a distiller is built from is refused by its name, and what is unusual is said once."""

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import timm
import torch
from tests.conftest import SmallNet
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import (
    AttentionTransfer,
    DistillationWarning,
    Distiller,
    FitNet,
    GradientAttention,
    Input,
    InputError,
    MultiHeadGraph,
    Relational,
    SimilarityPreserving,
    SoftTargets,
    build,
)

Pair = tuple[nn.Module, nn.Module]
EXAMPLE = torch.empty(2, 3, 16, 16)
HALF = Input((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("task_weight", "words"),
    [
        ("0.5", r"task_weight must be a number, not '0.5': write task_weight=0.5$"),
        ("much", "task_weight must be a number, not 'much'"),
        (True, "task_weight must be a number, not True"),
        (None, "task_weight must be a number, not None"),
        (torch.tensor(0.5), "task_weight must be a number, not a value of type Tensor"),
        ((0.5,), "write task_weight=0.5"),
        (math.nan, "task_weight must be a finite number of at least 0, not nan"),
        (math.inf, "task_weight must be a finite number of at least 0, not inf"),
        (-0.1, "task_weight must be a finite number of at least 0, not -0.1"),
    ],
)
def test_a_task_weight_that_is_no_finite_number_is_refused(small_pair: Pair, task_weight: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Distiller(*small_pair, [SoftTargets()], task_weight=task_weight, example=EXAMPLE)


@pytest.mark.parametrize("half", [np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_a_task_weight_of_any_kind_of_number_is_taken(small_pair: Pair, half: Any) -> None:
    assert Distiller(*small_pair, [SoftTargets()], task_weight=half, example=EXAMPLE).task_weight == 0.5


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (None, r"not a value of type NoneType: give torch.empty\(2, 3, 32, 32\)"),
        ((2, 3, 64, 64), r"example must be a tensor .* not a value of type tuple: give torch.empty\(2, 3, 64, 64\)"),
        ([EXAMPLE, torch.zeros(2)], r"list: give images and labels, example\[:2\]"),
        ([EXAMPLE[0], EXAMPLE[0]], "where it takes one tensor, give torch.stack"),
        (EXAMPLE.numpy(), r"ndarray: give torch.from_numpy\(example\)"),
        (EXAMPLE.to(torch.uint8), r"example must be floating point, not torch.uint8.*example.float\(\) / 255"),
        (EXAMPLE.long(), "example must be floating point, not torch.int64"),
        (EXAMPLE.bool(), "example must be floating point, not torch.bool"),
        (EXAMPLE[0], r"not \(3, 16, 16\): give example\[None\]"),
        (EXAMPLE.permute(0, 2, 3, 1), r"channels come last here, so give example.permute\(0, 3, 1, 2\)"),
        (EXAMPLE.flatten(1), r"example must be images of shape .*, not \(2, 768\)"),
        (EXAMPLE[:0], r"at least one image of at least one pixel, not the shape \(0, 3, 16, 16\)"),
        (EXAMPLE[:, :, :0], "at least one image of at least one pixel"),
        (EXAMPLE.to_sparse(), "example must be a dense tensor"),
        (EXAMPLE.to("meta"), r"example must be on the device of the student, cpu, .*give example.to\('cpu'\)"),
        (EXAMPLE.double(), r"example must be torch.float32, the type of the .*, not torch.float64: give example"),
    ],
)
def test_an_example_that_is_no_batch_of_images_is_refused(small_pair: Pair, example: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Distiller(*small_pair, [SoftTargets()], example=example)


@pytest.mark.parametrize("method", [Relational(), SimilarityPreserving(), SoftTargets()])
def test_an_example_of_one_image_is_enough_for_every_method(small_pair: Pair, method: Any) -> None:
    out = Distiller(*small_pair, [method], example=EXAMPLE[:1])(torch.randn(4, 3, 16, 16), torch.arange(4))
    assert out.loss.isfinite()


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (SoftTargets(), r"must be a list of methods .*: give \[SoftTargets\(...\)\], in brackets"),
        (SoftTargets, r"must be a list of methods .*: that is a class, write SoftTargets\(\)"),
        ([SoftTargets], r"number 0 of these is .*: that is a class, write SoftTargets\(\)"),
        ("kd", r"not 'kd': write SoftTargets\(\)"),
        (["at", "kd"], r"number 0 of these is 'at': write AttentionTransfer\(\)"),
        (["nonsense"], "number 0 of these is 'nonsense'$"),
        (None, "must be a list of methods .*, not None"),
        ({"kd": SoftTargets()}, "must be a list of methods"),
        ({SoftTargets()}, "must be a list of methods"),
        (0.9, "must be a list of methods .*, not 0.9"),
        ([SoftTargets(), None], "number 1 of these is None"),
        ([nn.MSELoss()], r"number 0 of these is MSELoss\(\)"),
        ([SoftTargets(), AttentionTransfer(), SoftTargets()], "kd stands twice in methods with the same settings"),
        ([SoftTargets()] * 2, "kd stands twice"),
        ([MultiHeadGraph(), FitNet(hint_epochs=1)], "each divide the training into phases"),
    ],
)
def test_methods_that_are_no_list_of_methods_are_refused(small_pair: Pair, methods: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Distiller(*small_pair, methods, example=EXAMPLE)


def test_methods_may_come_in_any_order_that_can_be_gone_through(small_pair: Pair) -> None:
    student, teacher = small_pair
    for methods in ((SoftTargets(),), [SoftTargets()], iter([SoftTargets()]), (m for m in [SoftTargets()])):
        distiller = Distiller(copy.deepcopy(student), teacher, methods, example=EXAMPLE)
        assert distiller.methods == (SoftTargets(activation="softmax"),)
        distiller.detach()


@pytest.mark.parametrize(
    ("role", "network", "words"),
    [
        (
            "student",
            "resnet18",
            r"student must be a torch.nn.Module, not .* str: .*build\('resnet18', 10\)",
        ),
        ("student", None, "student must be a torch.nn.Module, not a value of type NoneType"),
        ("student", nn.Linear, r"give Linear\(...\), an instance of it"),
        ("student", {"fc.weight": torch.ones(1)}, "student must be a torch.nn.Module, not a value of type dict"),
        ("teacher", "resnet18", "teacher must be a torch.nn.Module, not a value of type str"),
        (
            "teacher",
            [nn.Linear(1, 1), "resnet18"],
            "the teacher '1' must be a torch.nn.Module, not a value of type str",
        ),
        ("student", [nn.Linear(1, 1), nn.Linear(1, 1)], "a distiller has one, so give one of them"),
        ("teacher", [SoftTargets()], "methods are the third argument"),
        ("teacher", SoftTargets(), "methods are the third argument"),
        ("teacher", torch.sigmoid, "teacher must be a torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_refused(small_pair: Pair, role: str, network: Any, words: str) -> None:
    networks = dict(zip(("student", "teacher"), small_pair, strict=True)) | {role: network}
    with pytest.raises(InputError, match=words):
        Distiller(**networks, methods=[SoftTargets()], example=EXAMPLE)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": (0.5,) * 3, "std": (0.5,) * 3}, r"teacher_input must be an Input, .* dict: give Input\(mean="),
        ((0.5, 0.5, 0.5), "teacher_input must be an Input, not a value of type tuple"),
        (Input, "teacher_input must be an Input"),
        (replace(HALF, mean=0.5), "teacher_input: mean must be a tuple of numbers, not 0.5"),
        (replace(HALF, mean=(0.5,)), r"mean of teacher_input must be 3 finite numbers, .*, not \(0.5,\)"),
        (replace(HALF, mean=(0.5, 0.5, math.nan)), "mean of teacher_input must be 3 finite numbers"),
        (replace(HALF, std=(0.5, 0.5, 0.0)), "std of teacher_input must be 3 finite numbers, .*, each above 0"),
        (replace(HALF, size=224), "teacher_input: size must be a tuple of 2 whole numbers or None, not 224"),
        (replace(HALF, size=(224, 0)), "size of teacher_input must be a height and a width of at least 1"),
    ],
)
def test_an_input_that_says_nothing_is_refused(small_pair: Pair, given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Distiller(*small_pair, [SoftTargets()], example=EXAMPLE, student_input=HALF, teacher_input=given)


def test_a_refused_argument_leaves_both_networks_alone() -> None:
    student, teacher = build("resnet8", 5), build("resnet8", 5)
    for settings in ({"example": EXAMPLE[0]}, {"example": EXAMPLE, "task_weight": "1"}, {"example": EXAMPLE.double()}):
        with pytest.raises(InputError):
            Distiller(student, teacher, [AttentionTransfer()], **settings)
    assert not any(module._forward_hooks for network in (student, teacher) for module in network.modules())
    assert all(parameter.requires_grad for parameter in teacher.parameters())


# ---------------------------------------------------------------- what is unusual is said once, in words that stay


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(4) % 5


def test_nothing_is_said_of_what_is_usual(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [SoftTargets()], example=EXAMPLE)
    distiller(*batch()).loss.backward()
    assert distiller.notes == ()
    assert Distiller(small_pair[0], None, [], example=EXAMPLE).notes == ()


def test_a_distiller_that_was_left_in_evaluation_mode_is_said(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [SoftTargets()], example=EXAMPLE).eval()
    with pytest.warns(DistillationWarning, match="the student learns in evaluation mode"):
        distiller(*batch()).backward()


@pytest.mark.parametrize("built", [True, False], ids=["when it was built", "later"])
def test_a_student_that_learns_in_evaluation_mode_is_said_once(small_pair: Pair, built: bool) -> None:
    student, teacher = small_pair
    if built:
        student.eval()
    distiller = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE)
    student.eval()
    before = student.layer1[0][1].running_mean.clone()
    out = distiller(*batch())
    with pytest.warns(DistillationWarning, match=r"learns in evaluation mode: .* call distiller.train\(\)"):
        out.loss.backward()
    assert torch.equal(student.layer1[0][1].running_mean, before)
    assert distiller.notes == (distiller.notes[0],)
    distiller(*batch()).loss.backward()
    distiller.train()(*batch()).loss.backward()
    assert len(distiller.notes) == 1


def test_it_is_said_of_limited_and_of_scaled_gradients_too(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [MultiHeadGraph()], example=EXAMPLE)
    # In the first phase it rests in this mode.
    distiller.set_epoch(0)
    distiller(*batch()).loss.backward()
    assert distiller.notes == ()
    distiller.set_epoch(40)
    distiller.student.eval()
    with pytest.warns(DistillationWarning, match="evaluation mode"):
        (distiller(*batch()).loss / 2).backward()


def test_measuring_and_partly_frozen_norms_are_nothing_unusual(small_pair: Pair) -> None:
    student = small_pair[0]
    distiller = Distiller(*small_pair, [SoftTargets()], example=EXAMPLE)
    student.layer1.eval()
    distiller(*batch()).loss.backward()
    student.eval()
    with torch.no_grad():
        float(distiller(*batch()).loss)
    float(distiller(*batch()).loss.detach())
    distiller.train()
    assert distiller.notes == ()


@pytest.mark.parametrize("methods", [[], [GradientAttention(target="flip")]], ids=["none", "symmetry"])
def test_a_teacher_that_nothing_is_read_of_is_said(small_pair: Pair, methods: list[GradientAttention]) -> None:
    with pytest.warns(DistillationWarning, match="a teacher was given, and nothing is read of it") as said:
        distiller = Distiller(*small_pair, methods, example=EXAMPLE)
    assert [warning.filename for warning in said] == [__file__]
    assert distiller.notes[0].endswith("leave it out, or give methods that learn from it.")


def test_exchanged_networks_are_said(small_pair: Pair) -> None:
    student, teacher = small_pair
    with pytest.warns(DistillationWarning, match="the student is larger than its teacher .* exchanged"):
        distiller = Distiller(teacher, student, [AttentionTransfer()], example=EXAMPLE)
    assert len(distiller.notes) == 1
    # A network that is built alike, also for other classes.
    assert Distiller(SmallNet(4), SmallNet(4), [SoftTargets()], example=EXAMPLE).notes == ()
    assert Distiller(SmallNet(4, classes=50), SmallNet(4), [AttentionTransfer()], example=EXAMPLE).notes == ()


FRESH: dict[str, Callable[[], nn.Module]] = {
    "resnet8": lambda: build("resnet8", 5),
    "without its own weights": lambda: timm.create_model("resnet10t", num_classes=5),
    "in half precision": lambda: timm.create_model("convnext_atto", num_classes=5).bfloat16(),
    "transformer": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=5),
    "groups": lambda: timm.create_model("resnet10t", num_classes=5, norm_layer=lambda c, **_: nn.GroupNorm(4, c)),
}


@pytest.mark.filterwarnings("ignore:the student is larger")
@pytest.mark.parametrize("name", FRESH)
def test_a_teacher_that_was_never_trained_is_said(name: str) -> None:
    teacher = FRESH[name]()
    example = torch.empty(2, 3, 32, 32)
    with pytest.warns(DistillationWarning, match="the teacher was never trained, as far as can be told: all its norm"):
        distiller = Distiller(SmallNet(4), teacher, [SoftTargets()], example=example)
    assert "load its weights" in distiller.notes[0]
    distiller.detach()
    assert Distiller(SmallNet(4), as_trained(teacher), [SoftTargets()], example=example).notes == ()


def test_of_a_teacher_without_norms_nothing_can_be_told() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    assert Distiller(SmallNet(4), teacher, [SoftTargets()], example=EXAMPLE).notes == ()
    batch_norm = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64, affine=False), *teacher[1:])
    with pytest.warns(DistillationWarning, match="never trained"):
        Distiller(SmallNet(4), batch_norm, [SoftTargets()], example=EXAMPLE).detach()
    batch_norm(torch.randn(4, 3, 8, 8))
    assert Distiller(SmallNet(4), batch_norm, [SoftTargets()], example=EXAMPLE).notes == ()


def test_a_warning_can_be_told_from_others() -> None:
    assert issubclass(DistillationWarning, UserWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DistillationWarning)
        assert len(Distiller(SmallNet(4), SmallNet(4), [], example=EXAMPLE).notes) == 1
