"""The script behind `make recipes` finds what fails and what is slow."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attention_transfer.experiment import Data, Experiment

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "recipes.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_of_recipes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    small, broken = Experiment("small", "resnet8"), Experiment("small-broken", "resnet9", data=Data())
    monkeypatch.setattr(module, "RECIPES", {"small": lambda: small, "small-broken": lambda: broken})
    return module


def test_a_recipe_that_runs_in_time_passes(script: Any, capsys: pytest.CaptureFixture[str]):
    del script.RECIPES["small-broken"]
    assert script.main(script.Flags(limit=60, threads=1)) == 0
    assert "1 of 1 recipes run within 60 s" in capsys.readouterr().out


def test_slow_and_broken_recipes_are_named(script: Any, capsys: pytest.CaptureFixture[str]):
    assert script.main(script.Flags(limit=0, threads=1)) == 1
    shown = capsys.readouterr().out
    assert "0 of 2 recipes" in shown
    assert "s  slow" in shown
    assert "InputError: unknown model 'resnet9'" in shown


def test_names_choose_by_their_beginning(script: Any, capsys: pytest.CaptureFixture[str]):
    assert script.main(script.Flags(names=("small-b",), limit=60, threads=1)) == 1
    assert "0 of 1 recipes" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no recipe begins with large"):
        script.main(script.Flags(names=("large",)))
