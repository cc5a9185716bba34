"""What a distiller is built from is refused by its name, in one sentence with what to give."""

import copy
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attention_transfer import (
    AttentionTransfer,
    Distiller,
    FitNet,
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
        ([EXAMPLE, torch.zeros(2)], r"list: give the images of the batch alone, example\[0\]"),
        ([EXAMPLE[0], EXAMPLE[0]], r"give torch.stack\(example\)"),
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
        assert distiller.methods == (SoftTargets(),)
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
        ("teacher", [nn.Linear(1, 1), nn.Linear(1, 1)], "a distiller has one, so give one of them"),
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
