"""Settings of methods: unknown names and values of another type are refused, what means the same is taken."""

import copy
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from attention_transfer import (
    METHODS,
    AttentionCopy,
    AttentionLinks,
    AttentionTransfer,
    ClassAttention,
    Contrastive,
    DecoupledSoftTargets,
    FitNet,
    InputError,
    Method,
    MultiHeadGraph,
    Schedule,
    SettingError,
    SoftTargets,
    Term,
)
from attention_transfer.batch import Batch
from attention_transfer.experiment import Experiment, from_json, to_json
from attention_transfer.methods import Observed, Reads
from attention_transfer.methods.layers.layer_selection import Layers


@pytest.mark.parametrize("key", METHODS)
def test_every_method_refuses_names_that_it_does_not_know_and_lists_those_that_it_has(key: str) -> None:
    with pytest.raises(SettingError, match=f"unknown setting 'nonsense' of {METHODS[key].__name__}") as refused:
        METHODS[key](nonsense=1)
    assert all(field.name in str(refused.value) for field in fields(METHODS[key]))
    # As Python's own, and as ours.
    assert isinstance(refused.value, TypeError)
    assert isinstance(refused.value, InputError)


@pytest.mark.parametrize(
    ("method", "name", "meant"),
    [
        (AttentionTransfer, "beta", "weight"),
        (AttentionTransfer, "alpha", "weight"),
        (AttentionTransfer, "wieght", "weight"),
        (AttentionTransfer, "layers", "student_layers"),
        (AttentionTransfer, "p", "power"),
        (SoftTargets, "T", "temperature"),
        (SoftTargets, "tau", "temperature"),
        (SoftTargets, "temprature", "temperature"),
        (DecoupledSoftTargets, "alpha", "target_weight"),
        (DecoupledSoftTargets, "beta", "other_weight"),
        (Schedule, "warmup", "warmup_epochs"),
        (Layers, "frist", "first"),
    ],
)
def test_what_was_meant_is_asked(method: type, name: str, meant: str) -> None:
    with pytest.raises(SettingError, match=f"unknown setting '{name}' .*did you mean '{meant}'"):
        method(**{name: 1})


def test_too_many_values_are_refused_with_the_names() -> None:
    with pytest.raises(SettingError, match=r"given 4 values and takes 3: its settings are weight, schedule, temp"):
        SoftTargets(0.9, Schedule(), 4.0, 5.0)


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize(
    "weight",
    ["1000", "much", True, None, math.nan, math.inf, -1.0, 1j, [3.0], torch.tensor(3.0), np.ones(2), nn.ReLU],
    ids=repr,
)
def test_every_method_refuses_a_weight_that_is_no_number(key: str, weight: Any) -> None:
    with pytest.raises(InputError, match="weight"):
        METHODS[key](weight=weight)


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (AttentionTransfer, {"weight": "1000"}, r"must be a number, not '1000': write weight=1000$"),
        (AttentionTransfer, {"weight": torch.ones(())}, r"Tensor and shape \(\): give a plain number"),
        (SoftTargets, {"temperature": "4"}, "write temperature=4"),
        (SoftTargets, {"schedule": 4.0}, "SoftTargets: schedule must be a Schedule, not 4.0"),
        (AttentionTransfer, {"student_layers": "layer1"}, r"write student_layers=\('layer1',\)"),
        (AttentionTransfer, {"teacher_layers": (1, 2)}, "must be a tuple of strings"),
        (AttentionTransfer, {"stages": 2}, r"write stages=\(2,\)"),
        (AttentionTransfer, {"stages": (0, 1.5)}, r"tuple of whole numbers or None, not \(0, 1.5\)"),
        (AttentionTransfer, {"stages": {0, 1}}, "tuple of whole numbers"),
        (AttentionTransfer, {"form": "papre"}, "form must be 'code' or 'paper', not 'papre'"),
        (AttentionTransfer, {"form": None}, "form must be 'code' or 'paper', not None"),
        (AttentionTransfer, {"power": 2 + 0j}, "power must be a number"),
        (AttentionCopy, {"layers": (0, 1)}, "layers must be a Layers"),
        (AttentionCopy, {"average": ("head",)}, r"average must be a tuple of 'examples' or .*, not \('head',\)"),
        (AttentionLinks, {"grid": 7}, "grid must be a tuple of 2 whole numbers or None, not 7"),
        (AttentionLinks, {"grid": (7, 7, 7)}, "grid must be a tuple of 2 whole numbers"),
        (ClassAttention, {"top": "3"}, "write top=3"),
        (Contrastive, {"student_layer": ("head",)}, "write student_layer='head'"),
        (Contrastive, {"dimensions": 2.5}, "dimensions must be a whole number, not 2.5"),
        (FitNet, {"batch_norm": "no"}, "batch_norm must be True or False, not 'no'"),
        (FitNet, {"batch_norm": 1}, "batch_norm must be True or False, not 1"),
        (FitNet, {"hint_epochs": 2.0}, "write hint_epochs=2$"),
        (FitNet, {"hint_epochs": 2, "hint_learning_rate": -1.0}, "hint_learning_rate must be a finite number above 0"),
        (MultiHeadGraph, {"graph_from": 3}, "graph_from must be a path or None, not 3"),
        (MultiHeadGraph, {"heads": True}, "heads must be a whole number, not True"),
        (Schedule, {"warmup_epochs": "5"}, "write warmup_epochs=5"),
        (Schedule, {"warmup_epochs": math.nan}, "warmup_epochs must be 0 or more and finite"),
        (Schedule, {"decay": (0, 0.9)}, "decay must be a tuple of tuples of a whole number and a number"),
        (Schedule, {"factors": ((0, math.nan),)}, "factors must be pairs"),
        (Schedule, {"factors": ((0, math.inf),)}, "none negative or infinite"),
        (Layers, {"student": 1}, r"write student=\(1,\)"),
        (Layers, {"match": "sprad"}, "match must be 'same' or 'spread'"),
    ],
)
def test_values_of_another_type_are_refused_with_what_is_wanted(method: type, settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        method(**settings)


def test_what_means_the_same_is_taken() -> None:
    assert AttentionTransfer(weight=3) == AttentionTransfer(weight=3.0)
    assert type(AttentionTransfer(weight=3).weight) is int
    for same in (np.float32(3), np.int64(3), np.float64(3), Fraction(3)):
        method = AttentionTransfer(weight=same)
        assert type(method.weight) in (int, float)
        assert method.weight == 3
    for stages in ([0, 1], range(2), [np.int64(0), np.int16(1)]):
        method = AttentionTransfer(stages=stages)
        assert method.stages == (0, 1)
        assert all(type(stage) is int for stage in method.stages)
        hash(method)
    assert AttentionTransfer(student_layers=["a"], teacher_layers=["b"]).student_layers == ("a",)
    assert Schedule(decay=[[0, 0.9]]) == Schedule(decay=((0, 0.9),))
    assert FitNet(batch_norm=np.bool_(False)).batch_norm is False
    assert MultiHeadGraph(graph_from="a/b").graph_from == Path("a/b")
    assert AttentionTransfer(form=np.str_("paper")).form == "paper"


@pytest.mark.parametrize("key", METHODS)
def test_checked_settings_are_pickled_copied_replaced_and_recorded(key: str) -> None:
    method = METHODS[key]()
    # Attention copy has no term, and so no other weight.
    method = method if key == "attention-copy" else replace(method, weight=np.float32(0.5))
    assert pickle.loads(pickle.dumps(method)) == method
    assert copy.deepcopy(method) == method
    experiment = Experiment("mine", "resnet8", "resnet20", (method,))
    assert from_json(to_json(experiment)) == experiment
    with pytest.raises(SettingError, match="unknown setting 'beta'"):
        replace(method, beta=1)


@dataclass(frozen=True)
class Mine(Method):
    """A method of somebody else, with settings that nobody here knows, and one without a value of its own."""

    key: ClassVar[str] = "mine"

    critic: Any = None
    names: Mapping[str, int] | None = None
    later: "Undefined | None" = None

    def reads(self, teacher: object, student: object) -> Reads:
        return Reads()

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        return {}


class Own(Mine):
    """With arguments of its own."""

    def __init__(self, size: int, **others: Any) -> None:
        super().__init__(**others)
        object.__setattr__(self, "size", size)


def test_methods_of_others_keep_settings_of_any_type_and_arguments_of_their_own() -> None:
    critic = nn.Linear(1, 1)
    assert Mine(critic=critic, names={"a": 1}, later=3).critic is critic
    with pytest.raises(SettingError, match="did you mean 'critic'"):
        Mine(critc=critic)
    assert Own(3, weight=2.0).size == 3
