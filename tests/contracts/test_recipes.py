"""Every recipe runs in its tiny form; a new line in RECIPES is enrolled by itself."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from attention_transfer.experiment import from_json, to_json
from attention_transfer.recipes import RECIPES
from attention_transfer.runs import RunFolder
from attention_transfer.training.fit import fit
from attention_transfer.training.progress import Reporter

pytestmark = pytest.mark.parametrize("name", RECIPES)


def test_name_and_json_round_trip(name: str) -> None:
    experiment = RECIPES[name]()
    assert experiment.recipe == name
    assert from_json(json.loads(json.dumps(to_json(experiment)))) == experiment
    assert RECIPES[name].__doc__


def test_tiny_form_runs_to_its_end(name: str, tmp_path: Path) -> None:
    experiment = RECIPES[name]().tiny()
    experiment = replace(experiment, training=replace(experiment.training, device="cpu", threads=1))
    fit(experiment, tmp_path / "run", Reporter(silent=True))
    assert RunFolder(tmp_path / "run").finished
