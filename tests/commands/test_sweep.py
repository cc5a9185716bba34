"""Whole sweeps, as a user types them."""

import json
from pathlib import Path

import pytest
from tests.training.conftest import images

from attention_transfer.cli import main
from attention_transfer.commands import sweep
from attention_transfer.commands.train import parse
from attention_transfer.recipes import RECIPES
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter

__all__ = ["images"]

RECIPE = "cifar100-resnet56-resnet20"


def flags(images: Path) -> list[str]:
    return (
        f"--data npz:{images} --student resnet8 --teacher resnet14 --untrained-teacher --epochs 2 --batch-size 16 "
        "--threads 1 --device cpu --methods at --task-weight 1"
    ).split()


@pytest.mark.more
def test_a_grid_runs_in_two_processes_goes_on_where_it_stopped_and_survives_failing_runs(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "swept"
    over = ["--over", "learning-rate=0.05,1e38", "--over", "seed=0,1", "--processes", "2", "--folder", str(folder)]
    # One run as an interruption after its first epoch leaves it, one finished.
    for seed, epochs in ((0, 1), (1, 2)):
        given = [*flags(images), "--learning-rate", "0.05", "--seed", str(seed)]
        interrupted_after(epochs, given, folder / f"learning-rate=0.05_seed={seed}")
    before = (folder / "learning-rate=0.05_seed=1" / "summary.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["sweep", RECIPE, *flags(images), *over]) == 1
    out, err = capsys.readouterr()
    assert "4 runs, 1 finished, 1 to go on with, 2 at a time" in out
    assert "learning-rate=0.05_seed=0  resuming" in out
    assert "at epoch 2" in out
    assert (folder / "learning-rate=0.05_seed=1" / "summary.json").stat().st_mtime_ns == before
    assert "2 of 4 runs failed" in err
    for seed in (0, 1):
        log = folder / "logs" / f"learning-rate=1e38_seed={seed}.log"
        assert f"learning-rate=1e38_seed={seed}: attention-transfer train: " in err
        assert str(log) in err
        assert "finite" in log.read_text()
    table = json.loads((folder / "table.json").read_text())
    assert [(row["values"], row["seeds"]) for row in table["rows"]] == [({"learning-rate": "0.05"}, [0, 1])]
    tops = [(RunFolder(path).summary or {})["student"]["test"]["top1"] for path in table["rows"][0]["paths"]]
    assert table["rows"][0]["last_epoch"]["mean"] == pytest.approx(sum(tops) / 2)
    assert "2 of 4 runs" in (folder / "table.md").read_text()
    assert (folder / "sweep.png").stat().st_size > 1000
    # Of the finished part alone, nothing runs any more.
    finished = ["sweep", RECIPE, *flags(images), "--over", "seed=0,1", "--folder", str(tmp_path / "seeds")]
    for seed in (0, 1):
        (tmp_path / "seeds").mkdir(exist_ok=True)
        (folder / f"learning-rate=0.05_seed={seed}").rename(tmp_path / "seeds" / f"seed={seed}")
    assert main(finished) == 0
    assert "2 runs, 2 finished" in capsys.readouterr().out
    assert not (tmp_path / "seeds" / "logs").exists()


def interrupted_after(epochs: int, given: list[str], folder: Path) -> None:
    """Leave a run as Ctrl-C in the epoch after these would."""
    experiment, _ = parse(RECIPES[RECIPE](), given)

    class Stopper(Reporter):
        def epoch(self, row: object, epochs_in_all: int) -> None:
            del epochs_in_all
            assert isinstance(row, dict)
            if row["epoch"] == epochs < experiment.training.epochs:
                raise KeyboardInterrupt

    try:
        fit_experiment(experiment, folder, Stopper(silent=True))
    except KeyboardInterrupt:
        assert epochs < experiment.training.epochs


def test_only_table_trains_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sweep, "run", None)
    command = ["sweep", RECIPE, *flags(images), "--over", "seed=0,1", "--folder", str(tmp_path / "s"), "--only-table"]
    assert main(command) == 2
    assert "no run of this sweep is finished" in capsys.readouterr().err
    interrupted_after(2, [*flags(images), "--seed", "0"], tmp_path / "s" / "seed=0")
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Unfinished, left out: 1 of 2 runs." in out
    assert (tmp_path / "s" / "table.md").read_text().startswith("`attention-transfer sweep cifar100")


def test_an_earlier_sweep_of_other_settings_is_not_overwritten(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    interrupted_after(1, [*flags(images), "--seed", "0"], tmp_path / "s" / "seed=0")
    words = ["sweep", RECIPE, *flags(images), "--over", "seed=0,1", "--folder", str(tmp_path / "s")]
    assert main([*words, "--batch-size", "8"]) == 2
    assert "training.batch_size is 16 there, 8 now. Give another --folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "nothing is swept"),
        ("--over seed=0,1 --processes 0", "processes must be at least 1"),
        ("--over seed=0,1 --run-folder x", "give --folder for all of them"),
        (f"--over seed=0,1 --folder {__file__}", "is a file: give another --folder"),
        ("--over sead=0,1", "did you mean seed"),
    ],
)
def test_bad_input_is_refused(arguments: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert main(["sweep", "digits", *arguments.split()]) == 2
    assert words in capsys.readouterr().err


def test_torchrun_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["sweep", "digits", "--over", "seed=0,1"]) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_each_sweep_has_a_folder_of_its_own():
    recipe = RECIPES["digits"]()
    planned, folder = sweep.plan(recipe, sweep.Flags(("at.weight=1,2", "seed=0,1")), ["--tiny"])
    assert folder == Path("runs", "digits", "tiny-sweep-at.weight+seed")
    assert planned.fields == ("at.weight", "seed")
