"""A method of the user's own, named by its import path."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.interrupted import Killer

from attention_transfer import InputError
from attention_transfer.cli import main
from attention_transfer.commands.launching.sweep_grid import grid
from attention_transfer.methods import registry
from attention_transfer.recipes import RECIPES
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter

PATH = "method_of_mine:Mine"
SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar
from attention_transfer import Method, Reads, Request, Term

@dataclass(frozen=True)
class Mine(Method):
    """Logits are brought together.

    Args:
        sharpness: of the comparison.
    """
    key: ClassVar[str] = "mine"
    sharpness: float = 1.0

    def reads(self, teacher, student):
        return Reads(Request(logits=True), Request(logits=True))

    def terms(self, batch, teacher, student, parts):
        return {self.key: Term(self.sharpness * (teacher.logits - student.logits).square().mean())}
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of the user's, which is the current one."""
    (tmp_path / "method_of_mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_OWN", {})
    monkeypatch.delitem(sys.modules, "method_of_mine", raising=False)
    return tmp_path


def test_a_method_by_import_path_trains_and_is_recorded_by_it(here: Path, capsys: pytest.CaptureFixture[str]):
    words = ["train", "digits", "--tiny", "--methods", PATH, "--mine.sharpness", "2", "--threads", "1"]
    assert main(words) == 0, capsys.readouterr().err
    folder = here / "runs" / "digits" / "tiny-mine-seed0"
    assert json.loads((folder / "experiment.json").read_text())["methods"][0]["name"] == PATH
    assert json.loads((folder / "experiment.json").read_text())["methods"][0]["sharpness"] == 2.0
    capsys.readouterr()
    assert main(words) == 0
    assert "finished already" in capsys.readouterr().out
    assert main(["train", "digits", "--methods", PATH, "--help"]) == 0
    assert "--mine.sharpness FLOAT" in capsys.readouterr().out


def test_what_it_trained_is_measured_without_importing_it(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "digits", "--tiny", "--methods", PATH, "--threads", "1"]) == 0
    folder = str(here / "runs" / "digits" / "tiny-mine-seed0")
    registry._OWN.clear()  # as in another process
    sys.modules.pop("method_of_mine")
    for command in ("evaluate", "compare", "cost"):
        assert main([command, folder]) == 0, capsys.readouterr().err
    assert "method_of_mine" not in sys.modules


def test_its_settings_are_swept_as_any_others(here: Path):
    recipe = RECIPES["digits"]()
    swept = grid(recipe, ["--methods", PATH], ["mine.sharpness=1,2"]).cells
    assert [cell.experiment.methods[0].sharpness for cell in swept] == [1.0, 2.0]  # pyright: ignore
    assert [cell.name for cell in swept] == ["mine.sharpness=1", "mine.sharpness=2"]
    beside = grid(recipe, ["--task-weight", "1", "--mine.sharpness", "3"], [f"methods=none,{PATH}+at"]).cells
    assert [[method.key for method in cell.experiment.methods] for cell in beside] == [[], ["mine", "at"]]
    with pytest.raises(InputError, match=r"no flag 'mine\.sharpnes'; did you mean mine.sharpness"):
        grid(recipe, ["--methods", PATH], ["mine.sharpnes=1,2"])


class Early(Killer):
    after = 1


def test_an_interrupted_run_goes_on_to_the_same_student(here: Path):
    method = registry.own_method(PATH)()
    experiment = replace(RECIPES["digits"]().tiny(), methods=(method,), teacher="resnet8", untrained_teacher=True)
    experiment = replace(experiment, training=replace(experiment.training, epochs=2, threads=1, device="cpu"))
    fit_experiment(experiment, here / "whole", Reporter(silent=True))
    with pytest.raises(KeyboardInterrupt):
        fit_experiment(experiment, here / "cut", Early(silent=True))
    fit_experiment(experiment, here / "cut", Reporter(silent=True))
    students = [load_file(here / name / "student.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--methods method_of_nobody:X", "cannot be imported"),
        ("--methods method_of_mine:Nothing", "has no 'Nothing': its methods are Mine"),
        ("--methods method_of_mine:dataclass", "is no method: give a class that inherits"),
        (f"--methods {PATH} --mine.sharpnes 2", "did you mean --mine.sharpness?"),
        ("--mine.sharpness 2", "there is no method mine"),
    ],
)
def test_what_is_no_method_is_refused(here: Path, words: str, said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "digits", "--tiny", *words.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys\nsys.exit(0)\n", "fails while it is imported: SystemExit (0) in line 2 of"),
        ("\nraise KeyError('a')\n", "fails while it is imported: KeyError ('a') in line 2 of"),
        ("\n\ndef (:\n", "fails while it is imported: SyntaxError"),
        ("import no_such_module_anywhere\n", "cannot be imported: No module named 'no_such_module_anywhere'"),
    ],
)
def test_a_module_that_fails_is_refused_with_its_line(
    here: Path, source: str, words: str, capsys: pytest.CaptureFixture[str]
):
    (here / "method_of_mine.py").write_text(source)
    assert main(["train", "digits", "--tiny", "--methods", PATH]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (here / "runs").exists()
