"""Which layers of two networks belong together."""

from dataclasses import dataclass

import pytest

from attention_transfer import Description, Stage, Tap
from attention_transfer.methods.layers.stage_selection import check_stages, paired_layers


@dataclass(frozen=True)
class Chosen:
    stages: tuple[int, ...] | None = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()


def network(count: int, *, known: bool = True) -> Description:
    return Description(tuple(Stage(Tap(f"s{i}"), Tap(f"a{i}", "input") if known else None) for i in range(count)))


def test_all_stages_pair_up_and_a_deeper_network_gives_as_many_spread_evenly() -> None:
    theirs, ours = paired_layers(network(6), network(3), Chosen(), "pre", "post")
    assert ours == (Tap("s0"), Tap("s1"), Tap("s2"))
    assert theirs == (Tap("a1", "input"), Tap("a3", "input"), Tap("a5", "input"))


def test_chosen_stages_are_the_same_numbers_in_both() -> None:
    theirs, ours = paired_layers(network(6), network(3), Chosen(stages=(0, -1)), "post", "post")
    assert (theirs, ours) == ((Tap("s0"), Tap("s5")), (Tap("s0"), Tap("s2")))


def test_named_layers_are_read_before_or_after_them() -> None:
    chosen = Chosen(student_layers=("x",), teacher_layers=("y",))
    theirs, ours = paired_layers(network(6), network(3), chosen, "pre", "post")
    assert (theirs, ours) == ((Tap("y", "input"),), (Tap("x"),))


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="the teacher has 3 stages, counted from 0; there is no stage 3"):
        paired_layers(network(3), network(6), Chosen(stages=(3,)), "post", "post")
    with pytest.raises(ValueError, match="where the student's stages s0, s1 end in an activation is not known"):
        paired_layers(network(2), network(2, known=False), Chosen(), "post", "pre")
    with pytest.raises(ValueError, match="no stages were found in the teacher"):
        paired_layers(network(0), network(2), Chosen(), "post", "post")


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="must pair up, not 2 with 1"):
        check_stages(None, ("a", "b"), ("c",))
    with pytest.raises(ValueError, match="at least one"):
        check_stages((), (), ())
    with pytest.raises(ValueError, match="either stages"):
        check_stages((1,), ("a",), ("b",))
