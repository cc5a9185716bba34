"""The pairing of stages, and methods of trainings of another length."""

import pytest

from attention_transfer import FitNet, Schedule
from attention_transfer.capture import Tap
from attention_transfer.methods.method import spread


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
