"""Schedules and the pairing of stages."""

import pytest

from attention_transfer import FitNet, Schedule
from attention_transfer.capture import Tap
from attention_transfer.methods.method import spread


def test_warm_up_rises_to_one_and_stays() -> None:
    schedule = Schedule(warmup_epochs=4)
    assert [schedule.factor(epoch) for epoch in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_decay_multiplies_per_epoch_and_changes_its_rate() -> None:
    schedule = Schedule(decay=((0, 0.99), (200, 0.98)))
    assert schedule.factor(0) == 1.0
    assert schedule.factor(200) == pytest.approx(0.99**200)
    assert schedule.factor(203) == pytest.approx(0.99**200 * 0.98**3)


def test_factors_hold_until_the_next() -> None:
    schedule = Schedule(factors=((2, 0.5), (4, 0.0)))
    assert [schedule.factor(epoch) for epoch in range(6)] == [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]


def test_parts_multiply_and_nothing_is_constant() -> None:
    schedule = Schedule(warmup_epochs=2, decay=((0, 0.5),), factors=((0, 3.0),))
    assert schedule.factor(0) == pytest.approx(1.5)
    assert schedule.factor(3) == pytest.approx(3 * 0.125)
    assert Schedule().constant
    assert not schedule.constant
    assert Schedule().factor(1000) == 1.0


@pytest.mark.parametrize(
    "fields",
    [{"warmup_epochs": -1}, {"decay": ((5, 0.9), (2, 0.9))}, {"factors": ((0, -1.0),)}, {"factors": ((0, 1), (0, 2))}],
)
def test_impossible_schedules_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Schedule(**fields)


@pytest.mark.parametrize(
    ("teacher", "student", "chosen"), [(7, 4, [1, 3, 5, 6]), (3, 3, [0, 1, 2]), (12, 3, [3, 7, 11]), (5, 1, [4])]
)
def test_stages_are_paired_evenly_and_the_last_always(teacher: int, student: int, chosen: list[int]) -> None:
    theirs, ours = ([Tap(str(i)) for i in range(count)] for count in (teacher, student))
    found, kept = spread(theirs, ours)
    assert [int(tap.module) for tap in found] == chosen
    assert list(kept) == ours


def test_what_counts_epochs_follows_a_training_of_another_length() -> None:
    method = FitNet(hint_epochs=40, schedule=Schedule(20, ((0, 0.98), (100, 0.9)), ((60, 0.5),)))
    half = method.stretched(0.5)
    assert (half.hint_epochs, half.schedule.warmup_epochs, half.schedule.factors) == (20, 10.0, ((30, 0.5),))
    assert half.weight == method.weight
    for epoch in (60, 120, 180):
        assert half.schedule.factor(epoch // 2) == pytest.approx(method.schedule.factor(epoch))
    # A phase never vanishes, and what was switched off stays so.
    assert method.stretched(1e-3).hint_epochs == 1
    assert FitNet().stretched(0.5) == FitNet()
