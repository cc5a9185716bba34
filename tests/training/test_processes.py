"""Jobs side by side."""

import os
import signal
import time
from pathlib import Path

import pytest

from attention_transfer.commands.launching import processes
from attention_transfer.commands.launching.processes import Job, run_jobs, threads_for


def job(folder: Path, name: str, script: str) -> Job:
    return Job(name, ("sh", "-c", script), folder / f"{name}.log")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_lines_are_shown_behind_names_and_kept_in_logs(tmp_path: Path):
    shown: list[str] = []
    jobs = [job(tmp_path, "a", "echo one; echo two >&2; printf three"), job(tmp_path, "b", "echo $COLOUR")]
    assert run_jobs(jobs, 1, os.environ | {"COLOUR": "green"}, shown.append) == ()
    assert shown == ["a  one", "a  two", "a  three", "b  green"]
    assert (tmp_path / "a.log").read_text() == "$ sh -c 'echo one; echo two >&2; printf three'\none\ntwo\nthree"


def test_a_failing_job_is_reported_with_its_last_line_and_the_others_finish(tmp_path: Path):
    jobs = [
        job(tmp_path, "bad", "echo first; echo the reason; exit 3"),
        job(tmp_path, "killed", "kill -9 $$"),
        job(tmp_path, "crashed", "echo so far; kill -SEGV $$"),
        job(tmp_path, "silent", "exit 7"),
        job(tmp_path, "good", f"touch {tmp_path}/done"),
    ]
    failures = run_jobs(jobs, 1, os.environ, lambda line: None)
    assert [(each.job.name, each.code, each.reason) for each in failures] == [
        ("bad", 3, "the reason"),
        (
            "killed",
            -signal.SIGKILL,
            "ended by SIGKILL: most likely for want of memory (fewer --processes, or a smaller --batch-size)",
        ),
        ("crashed", -signal.SIGSEGV, "ended by SIGSEGV: a library crashed; its last line: so far"),
        ("silent", 7, "it said nothing"),
    ]
    assert (tmp_path / "done").exists()


def test_no_more_run_at_a_time_than_are_allowed_and_no_fewer(tmp_path: Path):
    # Each waits until two have begun: with fewer at a time this would never end.
    script = f"touch {tmp_path}/begun-$$; while [ $(ls {tmp_path}/begun-* | wc -l) -lt 2 ]; do sleep 0.05; done; "
    script += (
        f"ls {tmp_path}/running-* 2>/dev/null | wc -l; touch {tmp_path}/running-$$; sleep 0.3; rm {tmp_path}/running-$$"
    )
    shown: list[str] = []
    run_jobs([job(tmp_path, str(number), script) for number in range(4)], 2, os.environ, shown.append)
    assert len(shown) == 4
    assert {line.split()[1] for line in shown} <= {"0", "1"}


@pytest.mark.parametrize("obedient", [True, False])
def test_an_interrupt_ends_all_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obedient: bool):
    grace = 60.0 if obedient else 0.5
    monkeypatch.setattr(processes, "_GRACE_SECONDS", grace)
    script = ("" if obedient else "trap '' INT; ") + "echo $$; while true; do sleep 0.1; done"
    pids: list[int] = []

    def say(line: str) -> None:
        pids.append(int(line.split()[-1]))
        if len(pids) == 2:
            raise KeyboardInterrupt

    # Tests may run where interrupts are ignored, as in the background of a script; children would inherit that.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs([job(tmp_path, name, script) for name in "abc"], 2, os.environ, say)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not any(is_alive(pid) for pid in pids)
    assert not (tmp_path / "c.log").exists()
    # The obedient ones went by themselves, long before they would have been killed.
    assert not obedient or time.monotonic() - started < grace


def test_sigterm_stops_children_too_and_its_handler_is_given_back(tmp_path: Path):
    before = signal.getsignal(signal.SIGTERM)
    pids: list[int] = []

    def say(line: str) -> None:
        pids.append(int(line.split()[-1]))
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run_jobs([job(tmp_path, "a", "echo $$; sleep 60")], 1, os.environ, say)
    assert not is_alive(pids[0])
    assert signal.getsignal(signal.SIGTERM) is before


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [threads_for(count) for count in (1, 2, 3, 20)] == [8, 4, 2, 1]
