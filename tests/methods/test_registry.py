"""A method that lives outside of the package is named by its import path."""

import sys
from pathlib import Path

import pytest

from attention_transfer import AttentionTransfer, Experiment
from attention_transfer.experiment import from_json, to_json
from attention_transfer.methods import METHODS, registry
from attention_transfer.methods.registry import method_named, own_method

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
    for name, key in (("mine_here", "mine"), ("taken_here", "kd")):
        Path(f"{name}.py").write_text(SOURCE.format(key=key))
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
        ("mine_here:Yours", "is no method"),
        ("pathlib:Path", "is no method"),
        ("attention_transfer:Method", "is no method"),
        ("taken_here:Mine", "a name that no other method has, not 'kd'"),
    ],
)
def test_what_is_no_method_is_refused(own: str, path: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        own_method(path)
    assert own not in METHODS


def test_the_package_hands_every_method_on() -> None:
    found: dict[str, object] = {}
    exec("from attention_transfer import *", found)
    assert {method.__name__ for method in METHODS.values()} <= found.keys()
    assert {"Distiller", "Reads", "Request", "Needs", "Term", "build"} <= found.keys()
