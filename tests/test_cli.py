"""The command line, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attention_transfer import AttentionTransfer, SoftTargets
from attention_transfer.cli import COMMANDS, main
from attention_transfer.commands.train import parse
from attention_transfer.recipes import RECIPES
from attention_transfer.runs import RunFolder
from tests.training.conftest import images

__all__ = ["images"]

RECIPE = "cifar100-resnet56-resnet20"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from attention_transfer.cli import main; main(['--help'])\n"
        "heavy = {'torch', 'timm', 'numpy', 'tyro', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout


def test_an_unknown_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "there is no command 'trian'" in capsys.readouterr().err


def test_recipes_give_every_flag_its_default() -> None:
    experiment, folder = parse(RECIPES[RECIPE](), [])
    assert experiment == RECIPES[RECIPE]()
    assert folder == Path("runs", RECIPE, "at+kd-seed0")


def test_flags_reach_every_field() -> None:
    arguments = (
        "--methods kd at --kd.temperature 2 --at.power 3 --at.stages 0 2 --at.schedule.warmup-epochs 5 "
        "--task-weight 0.5 --data cluttered-digits --data-root somewhere --validation-fraction 0.1 --epochs 7 "
        "--batch-size 32 --learning-rate 0.2 --precision bfloat16 --seed 4 --student resnet8 --run-folder x"
    )
    experiment, folder = parse(RECIPES[RECIPE](), arguments.split())
    soft, attention = experiment.methods
    assert soft == SoftTargets(temperature=2.0)
    assert isinstance(attention, AttentionTransfer)
    assert (attention.power, attention.stages, attention.schedule.warmup_epochs) == (3.0, (0, 2), 5)
    assert (experiment.task_weight, experiment.seed, experiment.student) == (0.5, 4, "resnet8")
    assert (experiment.data.name, experiment.data.root) == ("cluttered-digits", Path("somewhere"))
    assert experiment.data.validation_fraction == 0.1
    assert (experiment.training.epochs, experiment.training.batch_size) == (7, 32)
    assert (experiment.training.precision, experiment.optimisation.learning_rate) == ("bfloat16", 0.2)
    assert folder == Path("x")


def test_without_methods_the_student_trains_alone() -> None:
    experiment, folder = parse(RECIPES[RECIPE](), ["--methods", "--task-weight", "1"])
    assert experiment.teacher is None
    assert folder.name == "alone-seed0"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "magic"], "there is no method magic"),
        (["--methods", "at", "at"], "named once"),
        (["--methods", "at", "--kd.temperature", "2"], "flags of kd are given"),
        (["--methods"], "give --task-weight"),
        (["--methods", "--task-weight", "0.5"], "only scales the learning rate"),
        (["--methods", "at"], "task_weight of 0.1 goes with its methods"),
        (["--teacher-mean", "0.5", "0.5", "0.5"], "teacher_mean and teacher_std belong together"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--validation-fraction", "1"], "validation_fraction must be"),
    ],
)
def test_contradictions_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises((ValueError, SystemExit), match=words):
        parse(RECIPES[RECIPE](), arguments)


def test_training_evaluating_and_comparing(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = f"--data npz:{images} --student resnet8 --epochs 1 --batch-size 16 --threads 1 --device cpu".split()
    for seed in ("0", "1"):
        alone = ["train", RECIPE, *common, "--methods", "--task-weight", "1", "--seed", seed]
        assert main([*alone, "--run-folder", str(tmp_path / f"alone{seed}")]) == 0
        taught = [
            "train",
            RECIPE,
            *common,
            "--teacher",
            str(tmp_path / "alone0"),
            "--methods",
            "at",
            "--task-weight",
            "1",
        ]
        assert main([*taught, "--seed", seed, "--run-folder", str(tmp_path / "taught" / seed)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "alone0"), "--data", f"npz:{images}", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    summary = RunFolder(tmp_path / "alone0").summary
    assert summary is not None
    assert measured["top1"] == pytest.approx(summary["student"]["test"]["top1"])
    assert measured["count"] == 24
    assert main(["evaluate", str(tmp_path / "alone0"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == measured
    runs = [str(tmp_path / name) for name in ("alone0", "alone1", "taught")]
    assert main(["compare", *runs, "--curves", str(tmp_path / "curves.png")]) == 0
    table = capsys.readouterr().out
    assert "| CE" in table
    assert "| AT" in table
    assert "0, 1" in table
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_tiny_run_has_a_folder_of_its_own() -> None:
    assert parse(RECIPES["digits"](), ["--tiny"])[1].name == "tiny-at-seed0"


def test_a_finished_or_foreign_run_folder_is_never_overwritten(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = f"--data npz:{images} --student resnet8 --epochs 1 --batch-size 16 --threads 1 --methods --task-weight 1"
    command = ["train", RECIPE, *common.split(), "--run-folder", str(tmp_path / "run")]
    assert main(command) == 0
    assert main(command) == 0
    assert "finished already" in capsys.readouterr().out
    record = tmp_path / "run" / "experiment.json"
    record.write_text(record.read_text().replace(f'"{RECIPE}"', '"called-otherwise"'))
    assert main(command) == 0
    assert "finished already" in capsys.readouterr().out
    assert main([*command, "--seed", "5"]) == 2
    assert "seed is 0 there, 5 now" in capsys.readouterr().err
    slip = [*command[: command.index("--methods")], "--methods", "at", "--task-weight", "1", "--teacher", "resnet57"]
    assert main([*slip, "--run-folder", str(tmp_path / "run")]) == 2
    assert "resnet57" in capsys.readouterr().err


def test_a_refusal_says_which_method_refused_and_how_it_is_told(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"train {RECIPE} --data npz:{images} --student resnet8 --teacher resnet14 --untrained-teacher"
    command += f" --methods at kd --kd.temperature 2 --at.stages 9 --run-folder {tmp_path / 'run'}"
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert "--at.weight" in said
    assert "--kd.weight" not in said


def test_list_shows_every_room(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in ("at", "kd", "resnet56", "timm:NAME", "cluttered-digits", "cub200", "cifar100-*"):
        assert name in shown


def test_errors_are_lines_and_not_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "nonsense"]) == 2
    assert "there is no recipe 'nonsense'" in capsys.readouterr().err
    assert main(["evaluate", "resnet20", "--data", "cluttered-digits", "--train-limit", "10"]) == 2
    assert "names a network without weights" in capsys.readouterr().err
    assert main(["compare", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_arguments_that_are_no_text_are_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange = str(tmp_path / "run") + b"caf\xe9".decode(errors="surrogateescape")
    assert main(["train", "digits", "--tiny", "--run-folder", strange]) == 2
    assert "caf\\udce9 is no text in UTF-8: rename the file or folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
