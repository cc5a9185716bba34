import json
import subprocess
import sys
from pathlib import Path

import pytest

from attention_transfer.files.atomic import whole_folder
from attention_transfer.files.env_paths import expand
from attention_transfer.runs import (
    NotARunError,
    RunExistsError,
    RunFolder,
    RunLockedError,
    RunUnwritableError,
    find_runs,
    locking,
    whole_file,
)

EXPERIMENT = {
    "recipe": "small",
    "teacher": None,
    "seed": 0,
    "methods": [{"name": "at", "weight": 1000.0}],
    "training": {"epochs": 3},
}


def make(path: Path, **changes: object) -> RunFolder:
    return RunFolder.create_or_resume(path, EXPERIMENT | changes)


def test_a_new_run_keeps_its_experiment(tmp_path: Path):
    with make(tmp_path / "deep" / "run") as run:
        assert run.experiment == EXPERIMENT
        assert not run.finished
        assert run.read_metrics() == []
        assert run.summary is None


def test_the_same_experiment_resumes_and_a_tuple_is_a_list(tmp_path: Path):
    with make(tmp_path / "run") as run:
        run.append_metrics({"epoch": 1})
    with make(tmp_path / "run", methods=({"name": "at", "weight": 1000.0},)) as run:
        assert run.read_metrics() == [{"epoch": 1}]


def test_another_experiment_is_refused_naming_what_differs(tmp_path: Path):
    make(tmp_path / "run").close()
    with pytest.raises(RunExistsError, match=r"methods\.0\.weight is 1000\.0 there, 500\.0 now") as refusal:
        make(tmp_path / "run", methods=[{"name": "at", "weight": 500.0}], training={"epochs": 3, "compile": True})
    assert "training.compile is 'absent' there, True now" in str(refusal.value)
    assert "seed" not in str(refusal.value)
    make(tmp_path / "run").close()  # the refusal left neither a lock nor a change


def test_a_folder_with_other_files_is_refused_untouched(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunExistsError, match=r"is no run \(it holds thesis\.tex\)"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunExistsError, match="is a file"):
        make(tmp_path / "run")
    with pytest.raises(RunUnwritableError, match="cannot write to"):
        make(tmp_path / "run" / "below")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read_only(*_: object, **__: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(locking.os, "open", read_only)
    with pytest.raises(RunUnwritableError, match="Read-only file system; choose a folder"):
        make(tmp_path / "run")


def test_a_start_that_was_killed_at_once_can_start_again(tmp_path: Path):
    path = tmp_path / "run"
    path.mkdir()
    (path / ".lock").write_text("1\n")
    (path / ".tmp-1-experiment.json").write_text("{")
    make(path).close()
    assert sorted(below.name for below in path.iterdir()) == [".lock", "experiment.json"]


def test_a_second_writer_is_refused_naming_the_first(tmp_path: Path):
    script = (
        "import sys; from attention_transfer.runs import RunFolder\n"
        "run = RunFolder.create_or_resume(sys.argv[1], {}); print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(RunLockedError, match=f"is being written by process {first.pid};"):
            RunFolder.create_or_resume(tmp_path / "run", {})
        assert RunFolder(tmp_path / "run").experiment == {}  # reading stays possible
        first.kill()
    RunFolder.create_or_resume(tmp_path / "run", {}).close()


def test_a_second_writer_in_the_same_process_is_refused_until_the_first_closes(tmp_path: Path):
    first = make(tmp_path)
    with pytest.raises(RunLockedError):
        make(tmp_path)
    first.close()
    first.close()
    with pytest.raises(ValueError, match="open for reading only"):
        first.append_metrics({"epoch": 1})
    second = make(tmp_path)
    del second
    make(tmp_path).close()


def test_a_run_opened_for_reading_refuses_to_be_written(tmp_path: Path):
    make(tmp_path).close()
    run = RunFolder(tmp_path)
    for write in (run.append_metrics, run.write_summary, run.write_environment):
        with pytest.raises(ValueError, match="open for reading only"):
            write({"epoch": 1})
    with pytest.raises(ValueError, match="open for reading only"):
        run.truncate(0)
    assert not run.finished


def test_half_a_line_is_not_counted_and_does_not_swallow_the_next(tmp_path: Path):
    with make(tmp_path) as run:
        run.append_metrics({"epoch": 1, "train": {"loss": 2.5}})
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"epoch": 2, "tra')
        assert [row["epoch"] for row in run.read_metrics()] == [1]
        run.append_metrics({"epoch": 2})
        assert run.read_metrics() == [{"epoch": 1, "train": {"loss": 2.5}}, {"epoch": 2}]


def test_a_broken_line_before_the_end_is_an_error(tmp_path: Path):
    make(tmp_path).close()
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\nnonsense\n{"epoch": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* is not JSON"):
        RunFolder(tmp_path).read_metrics()


def test_truncated_metrics_hold_no_epoch_twice_after_a_resume(tmp_path: Path):
    with make(tmp_path) as run:
        for epoch in (1, 2, 3):
            run.append_metrics({"epoch": epoch, "start": "first"})
    with make(tmp_path) as run:
        run.truncate(1)
        run.append_metrics({"epoch": 2, "start": "second"})
        assert [(row["epoch"], row["start"]) for row in run.read_metrics()] == [(1, "first"), (2, "second")]


def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path: Path):
    with make(tmp_path) as run:
        with pytest.raises(ValueError, match=r"metrics\.jsonl .*not finite: test\.loss = nan"):
            run.append_metrics({"epoch": 1, "test": {"loss": float("nan"), "top1": 10.0}})
        assert run.read_metrics() == []


def test_the_summary_finishes_the_run(tmp_path: Path):
    with make(tmp_path) as run:
        run.write_summary({"epochs": 3})
        assert run.finished
    assert RunFolder(tmp_path).summary == {"epochs": 3}


def test_a_resumed_run_keeps_the_hardware_of_its_earlier_starts(tmp_path: Path):
    old, new = {"hardware": {"device": "old"}}, {"hardware": {"device": "new"}}
    with make(tmp_path) as run:
        run.write_environment(old)
        run.write_environment(old)
        assert run.environment == old
        run.write_environment(new)
        run.write_environment(new)
        assert run.environment == new | {"earlier": [old]}


def test_findings_are_json_or_bytes_under_plain_names(tmp_path: Path):
    make(tmp_path).close()
    run = RunFolder(tmp_path)
    assert json.loads(run.write_finding("centres", {"count": 3}).read_text()) == {"count": 3}
    assert run.write_finding("maps.npz", b"bytes").read_bytes() == b"bytes"
    for name in ("../escape", "", ".hidden", "a/b"):
        with pytest.raises(ValueError, match="plain file name"):
            run.write_finding(name, {})


def test_a_file_whose_writing_fails_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "weights.bin"
    path.write_text("old")

    def fail_half_way() -> None:
        with whole_file(path) as temporary:
            assert temporary.suffix == ".bin"
            temporary.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_half_way()
    assert path.read_text() == "old"
    assert [below.name for below in tmp_path.iterdir()] == ["weights.bin"]


def test_checkpoints_have_a_folder_and_survive_the_cleaning_of_leftovers(tmp_path: Path):
    with make(tmp_path) as run:
        with whole_folder(run.checkpoints / "epoch-1-step-0") as temporary:
            (temporary / "state").write_bytes(b"state")
        (run.checkpoints / ".tmp-9-epoch-2-step-0").mkdir()
    with make(tmp_path) as run:
        assert [path.name for path in run.checkpoints.iterdir()] == ["epoch-1-step-0"]
        assert (run.checkpoints / "epoch-1-step-0" / "state").read_bytes() == b"state"


def test_metrics_that_were_lost_come_back_from_who_kept_them(tmp_path: Path):
    rows = [{"epoch": epoch, "step": epoch} for epoch in (1, 2, 3)]
    with make(tmp_path) as run:
        run.append_metrics(rows[0])
        run.append_metrics({"epoch": 4})
        run.truncate(3, rows)
        assert run.read_metrics() == rows


def test_runs_are_found_once_at_any_depth(tmp_path: Path):
    for name in ("b/seed-1", "b/seed-0", "a"):
        make(tmp_path / name).close()
    found = find_runs([tmp_path, tmp_path / "b", tmp_path / "a"])
    assert [run.path.relative_to(tmp_path).as_posix() for run in found] == ["a", "b/seed-0", "b/seed-1"]


def test_looking_for_runs_where_there_are_none_is_an_error(tmp_path: Path):
    with pytest.raises(NotARunError, match="holds no run"):
        find_runs([tmp_path])
    with pytest.raises(NotARunError, match="is not a folder"):
        find_runs([tmp_path / "absent"])
    with pytest.raises(NotARunError, match="is no run folder"):
        RunFolder(tmp_path)


def test_run_folders_need_the_standard_library_only():
    script = (
        "import sys, attention_transfer.runs; print([m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def be_killed_inside(run: RunFolder) -> None:
    with run.new_snapshot(3) as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt


def test_snapshots_appear_whole_or_not_at_all(tmp_path: Path):
    with make(tmp_path / "run") as run:
        assert run.snapshots == {}
        for epoch in (10, 0, 2):
            with run.new_snapshot(epoch) as folder:
                (folder / "student").write_text(str(epoch))
                assert epoch not in run.snapshots
        assert list(run.snapshots) == [0, 2, 10]
        assert [path.name for path in run.snapshots.values()] == ["epoch-0", "epoch-2", "epoch-10"]
        with pytest.raises(KeyboardInterrupt):
            be_killed_inside(run)
        with run.new_snapshot(2) as folder:
            (folder / "student").write_text("anew")
        assert [path.name for path in run.snapshots[2].iterdir()] == ["student"]
        assert (run.snapshots[2] / "student").read_text() == "anew"
        assert sorted(path.name for path in (run.path / "snapshots").iterdir()) == ["epoch-0", "epoch-10", "epoch-2"]
    with pytest.raises(ValueError, match="open for reading only"), RunFolder(run.path).new_snapshot(4):
        pass


def test_resuming_forgets_later_snapshots_and_what_a_killed_process_left_of_them(tmp_path: Path):
    with make(tmp_path / "run") as run:
        for epoch in (0, 1, 2):
            with run.new_snapshot(epoch):
                pass
    left = run.path / "snapshots" / ".tmp-123-epoch-3"
    left.mkdir()
    (left / "student").write_text("half")
    with make(tmp_path / "run") as run:
        assert not left.exists()
        run.truncate(1)
        assert list(run.snapshots) == [0, 1]
        assert sorted(path.name for path in (run.path / "snapshots").iterdir()) == ["epoch-0", "epoch-1"]


def test_variables_are_filled_in_and_dollar_signs_on_the_disk_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.setenv("b", "elsewhere")
    monkeypatch.delenv("UNSET", raising=False)
    for name in ("a$b", "$HOME", "$UNSET", "${DATA}x", "plain"):
        (tmp_path / name).mkdir()
        for form in ("{}", "folder:{}", "npz:{}", "resnet56@{}"):
            assert expand(form.format(tmp_path / name)) == form.format(tmp_path / name)
    assert expand("folder:$DATA/plain") == f"folder:{tmp_path}/plain"
    assert expand("npz:${DATA}/$UNSET") == f"npz:{tmp_path}/$UNSET"
    assert expand("timm:vit_tiny_patch16_224@$DATA/new") == f"timm:vit_tiny_patch16_224@{tmp_path}/new"
    monkeypatch.chdir(tmp_path)
    assert expand("folder:$UNSET") == "folder:$UNSET"
    assert expand("~nobody-at-all/x") == "~nobody-at-all/x"
    for place in ("$UNSET/x", "folder:$DATA/$OTHER-UNSET", "folder:${NOT SET}", "costs $ 5"):
        with pytest.raises(
            ValueError, match=r"names an environment variable that is not set \(\$.*: set it, or correct"
        ):
            expand(place)
