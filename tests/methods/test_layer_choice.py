"""Layers are chosen and paired by number, and what cannot be paired is refused."""

from typing import Any

import pytest

from attention_transfer.capture import Tap
from attention_transfer.methods.layers.layer_selection import Layers

SIX = tuple(Tap(f"six.{i}") for i in range(6))
THREE = tuple(Tap(f"three.{i}") for i in range(3))


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [
        (Layers(), [0, 1, 2, 3, 4, 5]),
        (Layers(first=2), [0, 1]),
        (Layers(last=2), [4, 5]),
        (Layers(student=(0, -1)), [0, 5]),
    ],
)
def test_a_choice_counts_for_both_networks_of_equal_depth(layers: Layers, numbers: list[int]) -> None:
    other = tuple(Tap(f"other.{i}") for i in range(6))
    assert layers.pairs(SIX, other) == (tuple(SIX[i] for i in numbers), tuple(other[i] for i in numbers))


def test_partners_may_be_named() -> None:
    assert Layers(student=(0, 1), teacher=(5, 2)).pairs(THREE, SIX) == (THREE[:2], (SIX[5], SIX[2]))


def test_layers_of_the_deeper_network_are_spread() -> None:
    assert Layers(match="spread").pairs(THREE, SIX) == (THREE, (SIX[1], SIX[3], SIX[5]))
    assert Layers(match="spread").pairs(SIX, THREE) == ((SIX[1], SIX[3], SIX[5]), THREE)
    assert Layers(match="spread", last=1).pairs(THREE, SIX) == (THREE[2:], SIX[5:])


@pytest.mark.parametrize(
    ("chosen", "student", "teacher"),
    [
        ({"first": 3}, [0, 1, 2], [0, 0, 1]),
        ({"last": 2}, [4, 5], [2, 2]),
        ({"student": (2,)}, [2], [1]),
        ({"student": (-1, 0)}, [5, 0], [2, 0]),
        ({"first": 6}, [0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2]),
    ],
)
def test_chosen_layers_of_a_deeper_student_are_its_own(
    chosen: dict[str, Any], student: list[int], teacher: list[int]
) -> None:
    ours, theirs = Layers(match="spread", **chosen).pairs(SIX, THREE)
    assert ours == tuple(SIX[i] for i in student)
    assert theirs == tuple(THREE[i] for i in teacher)


def test_chosen_layers_have_the_partners_that_they_have_among_all() -> None:
    other = tuple(Tap(f"other.{i}") for i in range(14))
    for deeper in (SIX, other):
        partner = dict(zip(*Layers(match="spread").pairs(THREE, deeper), strict=True))
        for i, tap in enumerate(THREE):
            assert Layers(match="spread", student=(i,)).pairs(THREE, deeper) == ((tap,), (partner[tap],))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (Layers(), r"the student has 3 layers, the teacher 6: spread them \(match=\"spread\"\)"),
        (Layers(match="spread", first=4), "first asks for 4 layers; there are 3"),
        (Layers(student=(3,), teacher=(0,)), "the student has no layer 3: it has 3, numbered from 0 to 2"),
        (Layers(student=(0,), teacher=(6,)), "the teacher has no layer 6"),
        (Layers(student=(3,), match="spread"), "the student has no layer 3: it has 3"),
        (Layers(student=(-1, 2), match="spread"), r"each once; of 3 layers \(-1, 2\) are \[2, 2\]"),
        (Layers(student=(-1, 2), teacher=(0, 1)), "each once"),
    ],
)
def test_layers_that_do_not_exist_are_refused(layers: Layers, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layers.pairs(THREE, SIX)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": 1, "last": 1}, "first and last both choose layers"),
        ({"first": 0}, "first must be at least 1 layer, not 0"),
        ({"student": ()}, r"student must name layers, each once, not \(\)"),
        ({"student": (1, 1)}, "each once"),
        ({"teacher": (1,)}, "give the layers that they teach in student"),
        ({"student": (1,), "teacher": (1,), "match": "spread"}, 'match="spread" has nothing to find'),
        ({"student": (1, 2), "teacher": (1,)}, "teacher names 1 layers; give 2 layers"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layers(**settings)
