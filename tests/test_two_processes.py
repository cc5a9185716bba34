"""The two processes that tests share."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from torch import distributed

from tests.two_processes import TwoProcesses


@pytest.fixture(scope="module")
def both() -> Generator[TwoProcesses]:
    """Of their own: others need not import everything again after the failure."""
    made = TwoProcesses()
    yield made
    made.stop()


def meet(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    distributed.barrier()
    Path(folder, f"{rank}-{os.getpid()}").touch()
    os.environ["LEFT_BEHIND"] = "1"


def look_for_what_is_left_behind(rank: int) -> None:
    assert "LEFT_BEHIND" not in os.environ
    assert not distributed.is_initialized()


def fail_in_one(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    if rank == 1:
        raise ValueError("this one fails while the other waits")
    distributed.barrier()


def test_both_are_used_again_and_nothing_is_left_behind(both: TwoProcesses, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        both.run(meet, str(tmp_path / name))
        both.run(look_for_what_is_left_behind)
    first, second = (sorted(path.name for path in (tmp_path / name).glob("*-*")) for name in ("first", "second"))
    assert first == second
    assert [name[0] for name in first] == ["0", "1"]


def test_a_failure_in_one_ends_the_test_and_the_next_one_runs(both: TwoProcesses, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)rank 1: .*this one fails while the other waits"):
        both.run(fail_in_one, str(tmp_path))
    both.run(look_for_what_is_left_behind)
