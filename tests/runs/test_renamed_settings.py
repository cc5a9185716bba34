"""Runs that were recorded under other names of settings."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment, to_json
from attention_transfer.experiment.record import read_experiment
from attention_transfer.methods import METHODS, SoftTargets
from attention_transfer.runs import RunExistsError, RunFolder, renamed_settings
from attention_transfer.runs.renamed_settings import RENAMED, Renamed, with_current_names

TODAY = Experiment("small", "resnet8", "resnet14", (SoftTargets(temperature=2.0),))
RENAMES = (
    Renamed("", "label_weight", "task_weight", "0.2.0"),
    Renamed("training", "num_epochs", "epochs", "0.2.0"),
    Renamed("kd", "tau", "temperature", "0.2.0"),
)


def recorded() -> dict[str, Any]:
    """The experiment of today as the names of before had it."""
    text = json.dumps(to_json(TODAY))
    for each in RENAMES:
        text = text.replace(f'"{each.new}":', f'"{each.old}":')
    return json.loads(text)


def test_names_are_todays_wherever_they_stand_and_values_are_left_alone():
    assert recorded() != to_json(TODAY)
    assert with_current_names(recorded(), "a run", RENAMES) == to_json(TODAY)
    assert list(with_current_names(recorded(), "a run", RENAMES)) == list(to_json(TODAY))
    assert with_current_names(to_json(TODAY), "a run", RENAMES) == to_json(TODAY)


def test_methods_and_sections_of_another_name_are_left_alone():
    other = {"methods": [{"name": "at", "tau": 1.0}, "no method"], "training": None, "data": {"num_epochs": 1}}
    assert with_current_names(other, "a run", RENAMES) == other


def test_a_folder_of_before_is_read_resumed_and_refused_like_one_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    RunFolder.create_or_resume(tmp_path / "run", recorded()).close()
    monkeypatch.setattr(renamed_settings, "RENAMED", RENAMES)
    assert read_experiment(RunFolder(tmp_path / "run")) == TODAY
    RunFolder.create_or_resume(tmp_path / "run", to_json(TODAY)).close()
    changed = Experiment("small", "resnet8", "resnet14", (SoftTargets(temperature=3.0),))
    with pytest.raises(RunExistsError, match=r"methods\.0\.temperature is 2\.0 there, 3\.0 now"):
        RunFolder.create_or_resume(tmp_path / "run", to_json(changed))


def test_a_setting_under_both_names_is_refused():
    both = {"training": {"num_epochs": 1, "epochs": 2}}
    with pytest.raises(InputError, match=r"a run has both 'num_epochs' and 'epochs'.*remove 'num_epochs'"):
        with_current_names(both, "a run", RENAMES)


def test_every_renamed_setting_exists_under_its_new_name_alone():
    sections = {field.name for field in fields(Experiment)}
    experiment = to_json(Experiment("small", "resnet8"))
    for each in RENAMED:
        assert each.section in {"", *sections, *METHODS}
        names = (
            {field.name for field in fields(METHODS[each.section])}
            if each.section in METHODS
            else {*(experiment[each.section] if each.section else experiment)}
        )
        assert each.new in names
        assert each.old not in names
