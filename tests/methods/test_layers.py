"""Layers are chosen and paired, what cannot be paired is refused, and the vector that a last layer takes."""

from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import nn

from attention_transfer import Description, Stage, build, describe
from attention_transfer.capture import Tap
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.methods.layers.stage_selection import check_stages, embedding, embedding_tap, paired_layers

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


# ---------------------------------------------------------------- which layers of two networks belong together


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


# ---------------------------------------------------------------- the vector that a network's last layer takes


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2_half", "wrn_16_1"])
def test_it_is_what_the_head_takes(name: str) -> None:
    model = build(name, 5).eval()
    tap = embedding_tap(describe(model), "student")
    head = model.get_submodule(tap.module)
    assert isinstance(head, nn.Linear)
    assert (tap.site, tap.layout) == ("input", "raw")


def test_it_holds_for_a_class_token_too() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=1, num_classes=5)
    assert embedding_tap(describe(model), "teacher") == Tap("head", "input", "raw")


def test_without_a_linear_head_it_is_the_average_of_the_last_stage() -> None:
    description = Description(stages=(Stage(Tap("a"), None), Stage(Tap("b"), None)))
    assert embedding_tap(description, "student") == Tap("b")
    features = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(embedding(features, "student"), features.sum((2, 3)) / 20)
    assert embedding(features.half(), "student").dtype == torch.float32


def test_a_named_layer_comes_first() -> None:
    description = Description(stages=(Stage(Tap("a", layout="nhwc"), None),), head="fc")
    assert embedding_tap(description, "student", "b") == Tap("b", layout="nhwc")


def test_what_is_no_vector_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"neither a linear head nor stages were found in the teacher.*teacher_layer="):
        embedding_tap(Description(stages=()), "teacher")
    with pytest.raises(ValueError, match=r"the student's head takes a value of shape \(2, 3, 4\).*student_layer="):
        embedding(torch.zeros(2, 3, 4), "student")
