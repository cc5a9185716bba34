"""Runs that lie in a table of runs alone: nothing trains them again, and everything reads them."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from attention_transfer.cli import main
from attention_transfer.commands.data_of_runs import own_data
from attention_transfer.models.opening import open_model
from attention_transfer.runs import RunFolder, find_runs
from attention_transfer.training import experiment_run

RUNS = Path(__file__).parents[2] / "docs" / "results" / "runs"
PLACE = Path("docs", "results", "runs")
BF16 = "--precision bfloat16 --threads 1"
TRAIN = "train digits --methods --tiny --device cpu --threads 1"


def refuse_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would train fails from now on."""

    def refuse(*_: object) -> None:
        raise AssertionError("a finished run is trained again")

    monkeypatch.setattr(experiment_run, "prepare", refuse)
    monkeypatch.setattr("attention_transfer.commands.launching.processes.run_jobs", refuse)


def table(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a committed table at its place, in a folder that is the current one."""
    shutil.copytree(RUNS / name, folder / PLACE / name)
    monkeypatch.chdir(folder)
    return PLACE / name


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (f"digits --folder {PLACE}/digits {BF16} --rows ce kd at --cost --rounds 20", 9),
        (f"mhgd-digits --folder {PLACE}/digits {BF16} --teacher-cache cache --cost --rounds 20", 21),
    ],
)
def test_a_whole_table_that_is_packed_is_printed_and_nothing_runs(
    words: str, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = table(tmp_path, "digits", monkeypatch)
    before = files(folder)
    refuse_training(monkeypatch)
    assert main(["reproduce", *words.split()]) == 0
    out = capsys.readouterr().out
    assert f"{folder}: {runs} runs, {runs} finished, 0 to go on with" in out
    assert "teachers first" not in out
    assert "| kd " in out
    after = files(folder)
    assert {after.pop("table.md")[:1], after.pop("table.json")[:1]} == {b"`", b"{"}
    assert after == before


def test_a_table_of_other_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = table(tmp_path, "digits", monkeypatch)
    words = f"reproduce digits --folder {folder} --rows ce --precision float32 --threads 1".split()
    assert main(words) != 0
    said = capsys.readouterr().err
    assert "holds a run of another table: training.precision is 'bfloat16' there, 'float32' now" in said


def test_the_committed_teachers_open_and_say_what_they_were_trained_on():
    for name in ("digits/teacher_digits-strong-teacher", "vit-cifar100-small/teacher"):
        opened = open_model(str(RUNS / name))
        assert opened.trained
        assert own_data([str(RUNS / name)]).name.rpartition("/")[2] in ("cluttered-digits", "cifar100")


@pytest.fixture
def packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Two runs that are trained, packed, and deleted; where they were."""
    for seed in ("0", "1"):
        assert main([*TRAIN.split(), "--seed", seed, "--run-folder", str(tmp_path / f"seed={seed}")]) == 0
    assert main(["compare", str(tmp_path), "--pack", str(tmp_path / "runs.jsonl")]) == 0
    for seed in ("0", "1"):
        shutil.rmtree(tmp_path / f"seed={seed}")
    capsys.readouterr()
    return tmp_path


def test_train_leaves_a_packed_run_alone(packed: Path, capsys: pytest.CaptureFixture[str]):
    words = [*TRAIN.split(), "--run-folder", str(packed / "seed=0")]
    assert main([*words, "--seed", "0"]) == 0
    assert "seed=0 is finished already: nothing to do" in capsys.readouterr().out
    assert main([*words, "--seed", "1"]) != 0
    assert "holds a run of another experiment: seed is 0 there, 1 now" in capsys.readouterr().err
    assert [path.name for path in packed.iterdir()] == ["runs.jsonl"]
    # The run that is not there yet is trained.
    assert main([*TRAIN.split(), "--seed", "2", "--run-folder", str(packed / "seed=2")]) == 0
    assert RunFolder(packed / "seed=2").finished
    assert [run.experiment["seed"] for run in find_runs([packed])] == [0, 1, 2]


def test_a_sweep_reads_packed_runs(packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    refuse_training(monkeypatch)
    words: Sequence[str] = TRAIN.replace("train", "sweep").split()
    assert main([*words, "--over", "seed=0,1", "--folder", str(packed)]) == 0
    out = capsys.readouterr().out
    assert "2 runs, 2 finished, 0 to go on with" in out
    assert "0, 1" in out
    assert (packed / "sweep.png").stat().st_size > 1000


def test_a_damaged_table_beside_a_run_is_said_before_anything_is_trained(
    packed: Path, capsys: pytest.CaptureFixture[str]
):
    with (packed / "runs.jsonl").open("ab") as file:
        file.write(b"{\n")
    assert main([*TRAIN.split(), "--seed", "5", "--run-folder", str(packed / "seed=5")]) != 0
    assert "line 3 of" in capsys.readouterr().err
    assert not (packed / "seed=5").exists()
