"""Names of classes: which are the same, in which order, and when nobody can tell."""

import random

import pytest

from attention_transfer.data.dataset import are_numbered
from attention_transfer.models.class_names import imagenet_synsets, names_in, pair_classes


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("cat", "dog", "cow"), ("cat", "dog", "cow")),
        (("Cat", "DOG", "cow"), ("cat", "dog", "COW")),
        (("aquarium_fish", "maple tree"), ("aquarium fish", "maple-tree")),
        (("Köln", "Mañana"), ("koln", "manana")),
        (("001.Black_footed_Albatross", "002.Laysan_Albatross"), ("Black footed Albatross", "Laysan Albatross")),
        (("tench, Tinca tinca", "goldfish"), ("n01440764", "n01443537")),
        (("n01440764 tench", "n01443537_goldfish"), ("tench", "Carassius auratus")),
        (("A", "a"), ("A", "a")),
    ],
)
def test_the_same_classes_are_known_however_they_are_spelled(theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
    found = pair_classes(theirs, ours)
    assert (found.order, found.difference) == (None, "")
    turned = pair_classes(theirs[::-1], ours)
    assert (turned.order, turned.difference) == (tuple(range(len(ours)))[::-1], "")


def test_an_order_says_where_each_class_of_the_data_is() -> None:
    names = [f"{word} fish" for word in ["red", "green", "blue", "black", "white"]]
    shuffled = random.Random(0).sample(names, len(names))
    order = pair_classes(names, shuffled).order
    assert order is not None
    assert [names[index] for index in order] == shuffled


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("LABEL_0", "LABEL_1"), ("cat", "dog")),
        (("0", "1"), ("cat", "dog")),
        (("class 1", "class 2"), ("cat", "dog")),
        (None, ("cat", "dog")),
        (("cat", "dog", "cow"), ("cat", "dog")),
    ],
)
def test_without_names_nothing_is_said(theirs: tuple[str, ...] | None, ours: tuple[str, ...]) -> None:
    found = pair_classes(theirs, ours)
    assert (found.order, found.difference) == (None, "")


def test_numbers_of_the_data_are_names_only_where_they_are_said_to_be() -> None:
    assert pair_classes(("cat", "dog"), ("0", "1"), named=False).difference == ""
    assert "'cat', 'dog'" in pair_classes(("cat", "dog"), ("0", "1"), named=True).difference
    assert pair_classes(("1", "0"), ("0", "1"), named=False).order == (1, 0)


def test_other_classes_are_named_on_both_sides() -> None:
    cifar = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    stl = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    difference = pair_classes(cifar, stl).difference
    assert "2 of the data's 10 classes" in difference
    assert "('car', 'monkey')" in difference
    assert "('automobile', 'frog')" in difference


def test_one_other_class_is_enough_to_be_others() -> None:
    assert "'cow'" in pair_classes(("cat", "dog", "cow"), ("cat", "dog", "hen")).difference


def test_a_class_that_could_be_two_is_not_guessed() -> None:
    assert pair_classes(("crane", "crane, bird"), ("crane", "other")).difference
    assert pair_classes(("big cat, puma", "small cat, puma"), ("puma", "puma, small cat")).order is None


def test_imagenet_is_known_by_its_order_and_by_its_names() -> None:
    categories = pytest.importorskip("torchvision").models.get_model_weights("resnet18").DEFAULT.meta["categories"]
    synsets = imagenet_synsets()
    assert pair_classes(categories, synsets).order is None
    assert not pair_classes(categories, synsets).difference
    order = random.Random(0).sample(range(1000), 1000)
    assert pair_classes(categories, [synsets[index] for index in order]).order == tuple(order)


@pytest.mark.parametrize(
    ("names", "numbered"),
    [
        (("0", "1", "2"), True),
        (("1", "10", "2", "3", "4", "5", "6", "7", "8", "9"), True),
        (("flower 1", "flower 2"), True),
        (("LABEL_0", "LABEL_1"), True),
        (("n01440764", "n01443537"), False),
        (("A318", "A319"), False),
        (("cat", "1"), False),
        (("0", "0"), False),
        ((), False),
    ],
)
def test_numbers_are_told_from_names(names: tuple[str, ...], numbered: bool) -> None:
    assert are_numbered(names) == numbered


@pytest.mark.parametrize(
    "content",
    [
        ["cat", "dog"],
        ("cat", "dog"),
        {"cat": 0, "dog": 1},
        {1: "dog", 0: "cat"},
        {"0": "cat", "1": "dog"},
    ],
)
def test_names_are_read_as_people_write_them(content: object) -> None:
    assert names_in(content, 2) == ("cat", "dog")


@pytest.mark.parametrize(
    "content",
    [None, "cat", ["cat"], ["cat", "cat"], ["cat", 1], {"cat": 1, "dog": 2}, {"a": "cat"}, {0: "cat", 2: "dog"}, 3, {}],
)
def test_anything_else_is_no_list_of_names(content: object) -> None:
    assert names_in(content, 2) is None
