"""From values to runs."""

from pathlib import Path

import pytest

from attention_transfer import AttentionTransfer
from attention_transfer.commands.launching.sweep_grid import Cell, flag_kinds, grid
from attention_transfer.commands.train import parse
from attention_transfer.experiment import Experiment
from attention_transfer.recipes import RECIPES

DIGITS = RECIPES["digits"]()
TAUGHT = RECIPES["cifar100-resnet56-resnet20"]()


def cells(*over: str, fixed: str = "", recipe: Experiment = DIGITS) -> tuple[Cell, ...]:
    return grid(recipe, fixed.split(), over).cells


def attention(cell: Cell) -> AttentionTransfer:
    (method,) = (method for method in cell.experiment.methods if isinstance(method, AttentionTransfer))
    return method


def test_every_combination_is_one_run_and_the_last_field_changes_fastest():
    found = cells("at.weight=0,100", "seed=0,1,2")
    pairs = [(attention(cell).weight, cell.experiment.seed) for cell in found]
    assert pairs == [(0, 0), (0, 1), (0, 2), (100, 0), (100, 1), (100, 2)]
    assert [cell.name for cell in found[:2]] == ["at.weight=0_seed=0", "at.weight=0_seed=1"]


def test_a_cell_is_what_train_makes_of_its_arguments():
    for cell in cells("at.weight=1,2", "at.stages=0+2,none,1", "at.schedule.decay=10+0.5", fixed="--epochs 3"):
        assert parse(DIGITS, cell.arguments)[0] == cell.experiment
        assert cell.experiment.training.epochs == 3
        assert attention(cell).schedule.decay == ((10, 0.5),)
    stages = [attention(cell).stages for cell in cells("at.stages=0+2,none,1")]
    assert stages == [(0, 2), None, (1,)]


def test_switches_optional_values_and_paths_can_be_swept():
    assert [c.experiment.training.compile for c in cells("compile=true,false")] == [True, False]
    assert [c.experiment.training.channels_last for c in cells("channels_last=none,true")] == [None, True]
    assert [c.experiment.data.train_limit for c in cells("train-limit=none,64")] == [None, 64]
    assert [c.experiment.teacher for c in cells("teacher=runs/a,resnet14@$W/t.pt")] == ["runs/a", "resnet14@$W/t.pt"]
    assert [c.experiment.data.root for c in cells("data-root=none,here")] == [None, Path("here")]


def test_fields_of_every_room_are_known_by_the_names_of_the_flags():
    kinds = flag_kinds(DIGITS)
    for name in ("student", "methods", "data", "data-root", "learning-rate", "epochs", "at.power", "kd.temperature"):
        assert name in kinds
    assert "at.schedule.warmup-epochs" in kinds


def test_values_of_a_method_count_only_where_it_is_used():
    found = cells("methods=none,kd,at", "at.weight=1,2", fixed="--at.kind max")
    assert [cell.values for cell in found] == [
        {"methods": "none"},
        {"methods": "kd"},
        {"methods": "at", "at.weight": "1"},
        {"methods": "at", "at.weight": "2"},
    ]
    assert [cell.experiment.teacher for cell in found] == [None, "resnet14", "resnet14", "resnet14"]
    assert attention(found[2]).kind == "max"


def test_a_teacher_without_pupil_makes_no_second_run():
    found = cells("methods=none,at", "teacher=a,b", "seed=0,1")
    names = ["methods=none_seed=0", "methods=none_seed=1"]
    names += [f"methods=at_teacher={teacher}_seed={seed}" for teacher in "ab" for seed in (0, 1)]
    assert [cell.name for cell in found] == names


def test_fields_can_change_together():
    found = cells("methods:task-weight=none:1,kd:0.1,kd+at:0.5", recipe=TAUGHT)
    assert [(len(c.experiment.methods), c.experiment.task_weight) for c in found] == [(0, 1.0), (1, 0.1), (2, 0.5)]
    assert found[2].values == {"methods": "kd+at", "task-weight": "0.5"}


def test_names_are_plain_and_long_values_keep_their_end_and_stay_apart():
    deep = "runs/" + "very/" * 20
    found = cells(f"teacher={deep}x/student.safetensors,{deep}y/student.safetensors")
    names = [cell.name for cell in found]
    assert len(set(names)) == 2
    for name in names:
        assert "student.safetensors" in name
        assert len(name) < 60
        assert not set(name) & set("/@$: ")


@pytest.mark.parametrize(
    ("over", "fixed", "words"),
    [
        (["at.weigth=1,2"], "", "no flag 'at.weigth'; did you mean at.weight"),
        (["weight=1"], "", "did you mean .*at.weight"),
        (["at.weight"], "", "write FIELD=V1,V2"),
        (["at.weight="], "", "empty value"),
        (["at.weight=1,,2"], "", "empty value"),
        (["at.weight=1,abc"], "", "cell at.weight=abc is refused: --at.weight must be a number, not 'abc'"),
        (["at.power=1,0.5", "seed=0"], "", "cell at.power=0.5, seed=0 is refused: .*power must be a finite number"),
        (["epochs=1,0"], "", "cell epochs=0 is refused: epochs must be at least 1"),
        (["methods=at,magic"], "", "cell methods=magic is refused: there is no method magic"),
        (["methods=none,at", "task-weight=0.5"], "", "cell methods=none, task-weight=0.5 is refused: without methods"),
        (["seed=0", "seed=1"], "", "seed is swept twice"),
        (["at.weight=1,1.0"], "", "one value comes twice, as 1 and 1.0"),
        (["compile=true,TRUE"], "", "one value comes twice, as true and TRUE"),
        (["compile=yes"], "", "compile is true or false, not 'yes'"),
        (["seed=0,1"], "--seed 3", "--seed is both fixed and swept"),
        (["compile=true"], "--no-compile", "--no-compile is both fixed and swept"),
        (["seed=0,1"], "--nonsense 3", "there is no flag --nonsense"),
        (["methods=none,at", "kd.weight=1,2"], "", "no cell uses the method kd"),
        (["methods=none,at"], "--kd.weight 1", "no cell uses the method kd"),
        (["kd.weight=1,2"], "", "flags of kd are given"),
        (["teacher=a/b,a-b"], "", "would share the folder teacher=a-b"),
        (["run-folder=a,b"], "", "give --folder for the whole sweep"),
        (["methods:task-weight=none:1,at"], "", "2 fields need values like A:B, not 'at'"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(over: list[str], fixed: str, words: str):
    with pytest.raises(ValueError, match=words):
        cells(*over, fixed=fixed)
