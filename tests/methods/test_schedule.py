"""How weights change over training."""

import pytest

from attention_transfer import Schedule


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
