"""What methods share: their settings, their names, their pairing of stages, and how weights change over training."""

import copy
import importlib.util
import math
import pickle
import sys
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
from attention_transfer.capture import Tap
from attention_transfer.experiment import Experiment, from_json, to_json
from attention_transfer.methods import Observed, Reads, registry
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.methods.method import spread
from attention_transfer.methods.registry import method_named, own_method


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
    with pytest.raises(
        SettingError, match=r"given 5 values and takes 4: its settings are weight, schedule, temperature, activation"
    ):
        SoftTargets(0.9, Schedule(), 4.0, None, 5.0)


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


# ---------------- A method that lives outside of the package is named by its import path

SOURCE = """
from dataclasses import dataclass
from attention_transfer import Method, Reads, Request, Term


@dataclass(frozen=True)
class Mine(Method):
    key = "{key}"
    half: bool = True

    def reads(self, teacher, student):
        return Reads(Request(logits=True))

    def terms(self, batch, teacher, student, parts):
        return {{self.key: Term((student.logits - teacher.logits).square().mean())}}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The import path of a method in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_OWN", {})
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    keys = {"mine_here": "mine", "taken_here": "kd", "dotted_here": "a.b"}
    sources = {name: SOURCE.format(key=key) for name, key in keys.items()}
    sources["half_here"] = SOURCE.format(key="half").partition("    def terms")[0]
    sources["broken_here"] = "from attention_transfer import Nothing"
    for name, source in sources.items():
        Path(f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "mine_here:Mine"


def test_it_is_imported_once_named_and_goes_through_a_record(own: str) -> None:
    mine = own_method(own)
    assert mine is own_method(own)
    assert method_named(own) is mine
    experiment = Experiment("x", "resnet8", "resnet14", (mine(half=False), AttentionTransfer()))
    assert to_json(experiment)["methods"][0]["name"] == own
    assert from_json(to_json(experiment)) == experiment


def test_a_record_alone_imports_nothing(own: str) -> None:
    content = to_json(Experiment("x", "resnet8", "resnet14", (AttentionTransfer(),)))
    content["methods"] = [{"name": own, "weight": 1.0}]
    with pytest.raises(ValueError, match="not imported because a file says so: name it yourself, --methods mine_here"):
        from_json(content)
    assert "mine_here" not in sys.modules


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("mine_here", "written package.module:Class"),
        ("gone_from_here:Mine", "cannot be imported"),
        ("mine_here:Yours", "has no 'Yours': its methods are Mine"),
        ("pathlib:Path", "is no method"),
        ("attention_transfer:Method", "is no method"),
        ("taken_here:Mine", "a name that no other method has, .* not 'kd'"),
        ("dotted_here:Mine", "of letters, digits, - and _, not 'a.b'"),
        ("half_here:Mine", "no whole method: write its terms"),
        ("broken_here:Mine", "cannot be imported: cannot import name 'Nothing'"),
        ("attention_transfer:AttentionTransfer", "is the method 'at' of this package"),
        (".mine_here:Mine", "written package.module:Class"),
        ("mine_here..x:Mine", "written package.module:Class"),
    ],
)
def test_what_is_no_method_is_refused(own: str, path: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        own_method(path)
    assert own not in METHODS


def test_nothing_in_the_current_folder_goes_before_what_is_installed(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the standard library, and imported by nobody here.
    Path("this.py").write_text("")
    monkeypatch.delitem(sys.modules, "this", raising=False)
    own_method(own)
    found = importlib.util.find_spec("this")
    assert found is not None
    assert found.origin != str(Path("this.py").resolve())


def test_the_methods_hand_on_no_module_in_the_place_of_the_package() -> None:
    found: dict[str, object] = {"attention_transfer": "mine"}
    exec("from attention_transfer.methods import *", found)
    assert found["attention_transfer"] == "mine"
    assert {method.__name__ for method in METHODS.values()} | {"METHODS", "Provider", "Term"} <= found.keys()


def test_the_package_hands_every_method_on() -> None:
    found: dict[str, object] = {}
    exec("from attention_transfer import *", found)
    assert {method.__name__ for method in METHODS.values()} <= found.keys()
    assert {"Distiller", "Reads", "Request", "Needs", "Term", "build"} <= found.keys()


# ---------------- the pairing of stages, and methods of trainings of another length


@pytest.mark.parametrize(
    ("teacher", "student", "chosen"), [(7, 4, [1, 3, 5, 6]), (3, 3, [0, 1, 2]), (12, 3, [3, 7, 11]), (5, 1, [4])]
)
def test_stages_are_paired_evenly_and_the_last_always(teacher: int, student: int, chosen: list[int]) -> None:
    theirs, ours = ([Tap(str(i)) for i in range(count)] for count in (teacher, student))
    found, kept = spread(theirs, ours)
    assert [int(tap.module) for tap in found] == chosen
    assert list(kept) == ours


def test_what_counts_epochs_follows_a_training_of_another_length() -> None:
    method = FitNet(hint_epochs=40, schedule=Schedule(20, ((0, 0.98), (100, 0.9)), ((60, 0.5),)))
    half = method.stretched(0.5)
    assert (half.hint_epochs, half.schedule.warmup_epochs, half.schedule.factors) == (20, 10.0, ((30, 0.5),))
    assert half.weight == method.weight
    for epoch in (60, 120, 180):
        assert half.schedule.factor(epoch // 2) == pytest.approx(method.schedule.factor(epoch))
    # A phase never vanishes, and what was switched off stays so.
    assert method.stretched(1e-3).hint_epochs == 1
    assert FitNet().stretched(0.5) == FitNet()


# ---------------------------------------------------------------- how weights change over training


def test_warm_up_rises_to_one_and_stays() -> None:
    schedule = Schedule(warmup_epochs=4)
    assert [schedule.factor(epoch) for epoch in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_decay_multiplies_per_epoch_and_changes_its_rate() -> None:
    schedule = Schedule(decay=((0, 0.99), (200, 0.98)))
    assert schedule.factor(0) == 1.0
    assert schedule.factor(200) == pytest.approx(0.99**200)
    assert schedule.factor(203) == pytest.approx(0.99**200 * 0.98**3)


def test_factors_hold_until_the_next() -> None:
    schedule = Schedule(factors=((2, 0.5), (4, 0.0)))
    assert [schedule.factor(epoch) for epoch in range(6)] == [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]


def test_parts_multiply_and_nothing_is_constant() -> None:
    schedule = Schedule(warmup_epochs=2, decay=((0, 0.5),), factors=((0, 3.0),))
    assert schedule.factor(0) == pytest.approx(1.5)
    assert schedule.factor(3) == pytest.approx(3 * 0.125)
    assert Schedule().constant
    assert not schedule.constant
    assert Schedule().factor(1000) == 1.0


@pytest.mark.parametrize(
    "fields",
    [{"warmup_epochs": -1}, {"decay": ((5, 0.9), (2, 0.9))}, {"factors": ((0, -1.0),)}, {"factors": ((0, 1), (0, 2))}],
)
def test_impossible_schedules_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Schedule(**fields)
