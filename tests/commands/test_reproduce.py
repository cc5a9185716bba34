"""Whole tables, as a user types them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from attention_transfer.cli import main
from attention_transfer.commands import reproduce
from attention_transfer.commands.launching.many_runs import FailedRunsError, PlannedRun, finished
from attention_transfer.commands.launching.table_plan import changes
from attention_transfer.methods import AttentionCopy
from attention_transfer.recipes import RECIPES
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter

TINY = ["--tiny", "--device", "cpu", "--threads", "1"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs inside this process in place of processes of their own; the names of those that were not finished."""
    names: list[str] = []

    def run_here(planned: Sequence[PlannedRun], folder: Path, processes: int) -> None:
        del processes
        failed: list[str] = []
        for run in planned:
            if not finished(folder / run.name):
                names.append(run.name)
                try:
                    fit_experiment(run.experiment, folder / run.name, Reporter(silent=True))
                except ValueError as error:
                    failed.append(f"{run.name}: {error}")
        if failed:
            raise FailedRunsError("\n".join(failed))

    monkeypatch.setattr(reproduce, "run_all", run_here)
    return names


def test_a_table_runs_in_parts_and_goes_on_with_what_is_missing(
    started: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "table"
    words = ["reproduce", "digits", *TINY, "--folder", str(folder)]
    assert main([*words, "--rows", "ce", "kd", "--seeds", "0"]) == 0
    assert started == ["digits-alone_seed0", "digits-kd_seed0"]
    assert main([*words, "--rows", "ce", "kd", "--seeds", "0", "1", "--cost", "--rounds", "1"]) == 0
    assert started[2:] == ["digits-alone_seed1", "digits-kd_seed1"]
    capsys.readouterr()
    assert main([*words, "--rows", "ce", "kd", "at", "--seeds", "0", "1", "--only-table"]) == 0
    out = capsys.readouterr().out
    assert len(started) == 4
    assert "**Not the protocol of the table**" in out
    assert "epochs 1 instead of 25" in out
    assert "Unfinished, left out: 2 of 6 runs." in out
    content = json.loads((folder / "table.json").read_text())
    lines = {line["row"]: line for line in content["lines"]}
    tops = [(RunFolder(folder / f"digits-kd_seed{s}").summary or {})["student"]["test"]["top1"] for s in (0, 1)]
    assert lines["kd"]["last_epoch"]["mean"] == pytest.approx(sum(tops) / 2)
    assert lines["kd"]["cost"]["time_ratio"] > 0
    assert (lines["kd"]["cost"]["extra_parameters"], lines["ce"]["cost"]) == (0, None)
    # The teacher is a ResNet-20 of ten classes.
    assert lines["kd"]["cost"]["extra_bytes"] > 4 * 270_000
    assert (folder / "table.md").read_text().startswith("`attention-transfer reproduce digits")


def test_teachers_are_trained_first_by_their_own_recipes(tmp_path: Path) -> None:
    flags = reproduce.Flags(rows=("ce", "kd"), columns=("resnet56-resnet20", "resnet110-resnet32"), seeds=(3,))
    words = ["--data", "npz:images", "--threads", "1", "--train-limit", "100"]
    planned = reproduce.plan("cat-table6", reproduce.Flags(**vars(flags) | {"folder": tmp_path, "epochs": 3}), words)
    assert [run.name for run in planned.teachers] == ["teacher_cifar100-resnet56", "teacher_cifar100-resnet110"]
    for run in planned.teachers:
        assert (run.experiment.training.epochs, run.experiment.data.train_limit) == (240, None)
        assert (run.experiment.data.name, run.experiment.training.threads) == ("npz:images", 1)
    students = {run.name: run for run in planned.runs}
    assert list(students) == [
        "cifar100-resnet20_seed3",
        "cifar100-resnet56-resnet20-kd_seed3",
        "cifar100-resnet32_seed3",
        "cifar100-resnet110-resnet32-kd_seed3",
    ]
    taught = students["cifar100-resnet56-resnet20-kd_seed3"]
    assert taught.experiment.teacher == str(tmp_path / "teacher_cifar100-resnet56")
    assert (taught.experiment.seed, taught.arguments[:2]) == (3, ("train", "cifar100-resnet56-resnet20-kd"))
    assert changes(planned.cells) == ("train_limit 100 instead of none", "epochs 3 instead of 240")


def test_given_teachers_are_not_trained_and_shared_runs_run_once(tmp_path: Path) -> None:
    flags = reproduce.Flags(
        rows=("ce", "kd"),
        columns=("resnet32x4-shufflenetv1", "wrn_40_2-shufflenetv1"),
        teachers=("resnet32x4=a", "wrn_40_2=b"),
        folder=tmp_path,
    )
    planned = reproduce.plan("cat-table5", flags, [])
    assert planned.teachers == ()
    assert len(planned.runs) == 3 * 5
    assert {run.experiment.teacher for run in planned.runs} == {None, "a", "b"}
    assert changes(planned.cells) == ()


def test_other_images_and_other_teachers_are_not_the_protocol(tmp_path: Path) -> None:
    with RunFolder.create_or_resume(tmp_path / "run", {"student": "resnet14", "seed": 0}):
        pass

    def differing(teacher: str, *words: str) -> tuple[str, ...]:
        flags = reproduce.Flags(
            rows=("ce", "kd"), columns=("resnet56-resnet20",), teachers=(f"resnet56={teacher}",), folder=tmp_path / "t"
        )
        return changes(reproduce.plan("cat-table6", flags, words).cells)

    # Where the same images and the same network lie is nobody's business.
    assert differing("resnet56@weights.pt", "--data", "npz:images") == ()
    assert differing("resnet56@weights.pt", "--data", "stl10") == ("data stl10 instead of cifar100",)
    assert differing("resnet20@weights.pt") == ("teacher resnet20 instead of resnet56",)
    assert differing(str(tmp_path / "run")) == ("teacher resnet14 instead of resnet56",)
    assert differing("resnet56", "--untrained-teacher") == ("untrained_teacher True instead of False",)


def test_a_shorter_training_takes_schedules_and_phases_with_it(tmp_path: Path) -> None:
    flags = reproduce.Flags(
        rows=("dkd", "mhgd"), columns=("resnet56-resnet20",), epochs=12, teachers=("resnet56=a",), folder=tmp_path
    )
    dkd, mhgd = reproduce.plan("cat-table6", flags, []).cells
    (method,) = dkd.runs[0].experiment.methods
    assert method.schedule.warmup_epochs == 1.0
    assert (mhgd.runs[0].experiment.training.epochs, mhgd.runs[0].experiment.epochs) == (12, 14)
    assert changes((dkd, mhgd)) == ("epochs 12 instead of 240",)


@pytest.mark.parametrize("epochs", [None, 24])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--schedule cosine", "schedule cosine instead of steps"),
        ("--warmup-epochs 5", "warmup_epochs 5.0 instead of 0.0"),
        ("--dkd.schedule.warmup-epochs 0", "dkd.schedule.warmup_epochs 0.0 instead of"),
        ("--fitnet.hint-epochs 5", "fitnet.hint_epochs 5 instead of none"),
        ("--mhgd.graph-epochs 7", "mhgd.graph_epochs 7 instead of"),
    ],
)
def test_a_schedule_of_ones_own_is_not_the_protocol(words: str, said: str, epochs: int | None, tmp_path: Path) -> None:
    flags = reproduce.Flags(
        rows=("dkd", "fitnet", "mhgd"),
        columns=("resnet56-resnet20",),
        epochs=epochs,
        teachers=("resnet56=a",),
        folder=tmp_path,
    )
    found = changes(reproduce.plan("cat-table6", flags, words.split()).cells)
    assert any(change.startswith(said) for change in found)
    assert len(found) == (1 if epochs is None else 2)


@pytest.mark.parametrize("name", ["digits", "mhgd-comparison", "cat-table4"])
def test_tables_with_phases_schedules_and_snapshots_can_be_shortened(name: str, tmp_path: Path) -> None:
    flags = reproduce.Flags(epochs=3, seeds=(0,), folder=tmp_path)
    planned = reproduce.plan(name, flags, [])
    assert planned.runs
    assert all(run.experiment.training.epochs == 3 for run in planned.runs)


def test_flags_of_a_method_reach_its_rows_alone(tmp_path: Path) -> None:
    flags = reproduce.Flags(
        rows=("kd", "at"), columns=("resnet56-resnet20",), teachers=("resnet56=a",), folder=tmp_path
    )
    cells = reproduce.plan("cat-table6", flags, ["--at.weight", "10", "--precision", "bfloat16"]).cells
    weights = {cell.row: cell.runs[0].experiment.methods[0].weight for cell in cells}
    assert weights == {"kd": 0.9, "at": 10.0}
    assert changes(cells) == ("precision bfloat16 instead of float32", "at.weight 10.0 instead of 1000.0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cat-table9", "there is no table 'cat-table9'; did you mean cat-table"),
        ("digits --rows dk", "the table has no row 'dk'; it has ce"),
        ("cat-table6 --columns resnet8-resnet8", "has no column 'resnet8-resnet8'"),
        ("digits --seeds 0 0", "a seed comes twice"),
        ("digits --processes 0", "processes must be at least 1"),
        ("digits --seed 3", "give --seeds"),
        ("digits --run-folder x", "give --folder"),
        ("digits --methods kd", "the table's rows choose them"),
        ("digits --teacher x", "give --teachers NETWORK=MODEL"),
        ("digits --teachers resnet20", "write NETWORK=MODEL"),
        ("digits --teachers resnet20=a resnet20=b", "gives resnet20 twice"),
        ("digits --teachers resnet9=a", "no teacher of these cells is called that; they are resnet20"),
        ("digits --rows ce kd --at.weight 3", "no chosen row uses the method at"),
        ("digits --rows ce --batch-size 1", "digits-alone is refused: batch_size must be at least 2"),
        ("digits --only-table", "no run of this table is finished"),
        (f"digits --folder {__file__}", "is a file: give another --folder for the table"),
    ],
)
def test_bad_input_is_refused(words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = [] if "--folder" in words else ["--folder", str(tmp_path)]
    assert main(["reproduce", *words.split(), *place]) == 2
    assert message in capsys.readouterr().err


def test_another_table_is_not_overwritten(
    started: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "digits", *TINY, "--rows", "ce", "--seeds", "0", "--folder", str(tmp_path)]
    assert main(words) == 0
    assert main([*words, "--learning-rate", "0.01"]) == 2
    assert "holds a run of another table: optimisation.learning_rate" in capsys.readouterr().err
    assert len(started) == 1
    # What a recipe was called when the run was made makes no difference.
    record = tmp_path / "digits-alone_seed0" / "experiment.json"
    record.write_text(record.read_text().replace('"digits-alone"', '"digits"'))
    assert main(words) == 0
    assert len(started) == 1


def test_failed_runs_are_told_after_the_table_of_the_others(
    started: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Refused only once both networks are there: they have no attention to copy.
    broken = replace(RECIPES["digits-kd"](), methods=(AttentionCopy(),))
    monkeypatch.setitem(RECIPES, "digits-kd", lambda: broken)
    assert main(["reproduce", "digits", *TINY, "--rows", "ce", "kd", "--seeds", "0", "--folder", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "| ce" in out
    assert "digits-kd_seed0" in err
    assert started == ["digits-alone_seed0", "digits-kd_seed0"]


def test_help_names_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert "cat-table6" in out
    assert "NETWORK=MODEL for teachers" in out
