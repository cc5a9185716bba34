"""Measuring pieces of work in turns."""

import pytest
import torch

from attention_transfer.analysis import step_cost

CPU = torch.device("cpu")


def test_works_take_turns_and_the_first_rounds_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = [0.0], list[str]()

    def work(name: str, seconds: float) -> None:
        done.append(name)
        # The first rounds are slow.
        now[0] += seconds * (10 if len(done) <= 4 else 1)

    monkeypatch.setattr(step_cost, "_CLOCKS", {"wall": lambda: now[0], "cpu": lambda: -1.0})
    works = {"a": lambda: work("a", 1.0), "b": lambda: work("b", 2.0)}
    assert step_cost.seconds_in_turns(works, 3, CPU) == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert done == ["a", "b"] * 5
    assert step_cost.seconds_in_turns(works, 1, CPU, warm_ups=0, clock="cpu") == {"a": [0.0], "b": [0.0]}
    assert len(done) == 12


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        step_cost.seconds_in_turns({}, 0, CPU)
