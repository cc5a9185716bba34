"""Recipes that tables make."""

import pytest

from attention_transfer.experiment import Experiment
from attention_transfer.recipes.described import by_name


def test_a_recipe_gives_its_experiment_and_says_what_it_is():
    experiment = Experiment("one", "resnet8")
    recipes = by_name([(experiment, "the first"), (Experiment("two", "resnet14"), "the second")])
    assert list(recipes) == ["one", "two"]
    assert recipes["one"]() == experiment
    assert [recipe.__doc__ for recipe in recipes.values()] == ["the first", "the second"]


def test_two_recipes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two recipes are called one"):
        by_name([(Experiment("one", "resnet8"), "a"), (Experiment("one", "resnet14"), "b")])
