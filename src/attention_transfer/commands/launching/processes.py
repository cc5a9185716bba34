"""Commands side by side, each with a log of its own; whatever happens to one, the others go on."""

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """A command to run.

    Args:
        name: before its lines.
        command: program and arguments.
        log: file that its output is appended to; its folder exists.
    """

    name: str
    command: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Failure:
    """A job that ended with another exit code than 0.

    Args:
        job: it.
        code: its exit code; negative, the signal that ended it.
        reason: the signal that ended it, or the last line of its log.
    """

    job: Job
    code: int
    reason: str


def run_jobs(
    jobs: Sequence[Job], processes: int, environment: Mapping[str, str], say: Callable[[str], None]
) -> tuple[Failure, ...]:
    """Run all jobs, at most so many at a time, and show their lines as they come.

    An interrupt (Ctrl-C, or SIGTERM to this process) stops the running ones as Ctrl-C would, then is raised again.

    Args:
        jobs: in the order in which they start.
        processes: at least 1.
        environment: of the commands.
        say: receives each line of output, behind the job's name.

    Returns:
        Those that failed, in the order of `jobs`.
    """
    waiting, running = list(jobs), list[_Running]()
    failures: dict[str, Failure] = {}
    with _terminated_as_interrupted():
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    running.append(_Running(waiting.pop(0), environment, say))
                time.sleep(_POLL_SECONDS)
                for one in list(running):
                    code = one.poll()
                    if code is not None:
                        running.remove(one)
                        if code:
                            failures[one.job.name] = Failure(one.job, code, _reason(code, one.last_line))
        finally:
            _stop(running)
    return tuple(failures[job.name] for job in jobs if job.name in failures)


def threads_for(processes: int) -> int:
    """CPU threads for each of some processes, so that together they have as many as this one may use cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def _reason(code: int, last_line: str) -> str:
    """Why a job failed: one that a signal ended has had no time to say so."""
    if code >= 0:
        return last_line or "it said nothing"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    guess = {
        "SIGKILL": ": most likely for want of memory (fewer --processes, or a smaller --batch-size)",
        "SIGSEGV": ": a library crashed",
        "SIGBUS": ": a library crashed, or the disk is full",
        "SIGABRT": ": a library gave up",
    }.get(name, "")
    return f"ended by {name}{guess}" + (f"; its last line: {last_line}" if last_line else "")


class _Running:
    """A started job, and how far its log has been shown."""

    def __init__(self, job: Job, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.job, self._say = job, say
        self.last_line = ""
        self._rest = b""
        with job.log.open("ab") as log:
            log.write(f"$ {shlex.join(job.command)}\n".encode())
            log.flush()
            self.reader: BinaryIO = job.log.open("rb")
            self.reader.seek(0, os.SEEK_END)
            # A session of its own: Ctrl-C reaches it through us alone, once, with all its own children.
            self.process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Show new lines; the exit code once it has ended."""
        code = self.process.poll()
        *lines, self._rest = (self._rest + self.reader.read()).split(b"\n")
        if code is not None:
            lines.append(self._rest)
            self.reader.close()
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if text:
                self.last_line = text
                self._say(f"{self.job.name}  {text}")
        return code

    def send(self, number: int) -> None:
        """Signal it and its children."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)


def _stop(running: Sequence[_Running]) -> None:
    """Interrupt what still runs; kill what does not end in time. Run folders survive both."""
    for one in running:
        one.send(signal.SIGINT)
    end = time.monotonic() + _GRACE_SECONDS
    for one in running:
        try:
            one.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.send(signal.SIGKILL)
            one.process.wait()
        one.reader.close()


@contextmanager
def _terminated_as_interrupted() -> Generator[None]:
    """Let SIGTERM stop the children too, where handlers can be set: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
