import numpy as np
import pytest

from attention_transfer.methods import Phase
from attention_transfer.phases import Stretch, num_epochs, said, stretch_of, stretches

BEFORE, MAIN, AFTER = Phase("before", epochs=3, title="hints"), Phase("main"), Phase("after", epochs=2)


def test_only_one_phase_may_be_open_ended() -> None:
    assert stretches((BEFORE, MAIN), 5) == (Stretch(BEFORE, 0, 3), Stretch(MAIN, 3, 8))
    with pytest.raises(ValueError, match="only one phase"):
        stretches((MAIN, Phase("b")), 5)


def test_epochs_belong_to_phases_in_order_and_the_open_one_has_no_end() -> None:
    names = [stretch_of((BEFORE, MAIN), epoch).phase.name for epoch in (0, 2, 3, 1000)]
    assert names == ["before", "before", "main", "main"]
    assert stretch_of((BEFORE, MAIN), 1000).first == 3
    assert stretch_of((BEFORE, MAIN), np.int64(2)).phase == BEFORE


def test_a_phase_after_the_main_one_is_found_where_its_epochs_are_said() -> None:
    phases = (BEFORE, MAIN, AFTER)
    assert [stretch_of(phases, epoch, 4).phase.name for epoch in (2, 3, 6, 7, 8)] == [
        "before",
        "main",
        "main",
        "after",
        "after",
    ]
    assert stretch_of(phases, 2).phase == BEFORE
    with pytest.raises(ValueError, match=r"'main' has no length of its own, .* set_epoch\(epoch, epochs=...\)"):
        stretch_of(phases, 3)


@pytest.mark.parametrize(
    ("epoch", "epochs", "words"),
    [
        (-1, None, "epoch must be at least 0, the first one, not -1"),
        (9, 4, "epoch 9 comes after the training, whose phases have 9 epochs together"),
        (1.0, None, "epoch must be a whole number, not 1.0"),
        (True, None, "epoch must be a whole number, not True"),
        ("1", None, "epoch must be a whole number, not '1'"),
        (1, 4.5, "epochs must be a whole number, not 4.5"),
    ],
)
def test_what_is_no_epoch_of_the_training_is_refused(epoch: int, epochs: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stretch_of((BEFORE, MAIN, AFTER), epoch, epochs)


def test_a_training_of_ended_phases_alone_ends() -> None:
    assert num_epochs((BEFORE, AFTER), 100) == 5
    assert stretch_of((BEFORE, AFTER), 4).phase == AFTER
    with pytest.raises(ValueError, match="epoch 5 comes after the training"):
        stretch_of((BEFORE, AFTER), 5)


def test_all_epochs_are_those_of_the_training_and_of_its_other_phases() -> None:
    assert num_epochs((BEFORE, MAIN, AFTER), 100) == 105
    assert num_epochs((MAIN,), np.int32(7)) == 7
    for wrong in (0, -3, 1.5, "100"):
        with pytest.raises(ValueError, match="epochs must be"):
            num_epochs((MAIN,), wrong)  # pyright: ignore[reportArgumentType]


def test_lengths_are_said_in_words() -> None:
    heads = Phase("graph", epochs=40, title="graph heads")
    assert said((heads, MAIN), 1) == "40 epochs of graph heads, then 1"
    assert said((Phase("a", epochs=1), MAIN, AFTER), 5) == "1 epoch of a, then 5, then 2 epochs of after"
    assert said((MAIN, AFTER), 1) == "1 epoch, then 2 epochs of after"
