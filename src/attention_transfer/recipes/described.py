"""Recipes made from the cells of a table: each an experiment and its one-line description.

>>> recipes = by_name([(Experiment("mine", "resnet8"), "ResNet-8 on cluttered digits")])
>>> recipes["mine"]().student, recipes["mine"].__doc__
('resnet8', 'ResNet-8 on cluttered digits')
"""

from collections.abc import Callable, Iterable

from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment

Recipe = Callable[[], Experiment]
"""What the command line calls by name; the first line of its docstring is shown beside it."""

Described = tuple[Experiment, str]
"""One cell of a table, and what it is, in one line."""


def by_name(cells: Iterable[Described]) -> dict[str, Recipe]:
    """Recipes by the name that each experiment carries.

    Raises:
        ValueError: if two have one name.
    """
    recipes: dict[str, Recipe] = {}
    for experiment, text in cells:
        if experiment.recipe in recipes:
            raise InputError(f"two recipes are called {experiment.recipe}: name one of them differently")
        recipes[experiment.recipe] = _recipe(experiment, text)
    return recipes


def _recipe(experiment: Experiment, text: str) -> Recipe:
    def recipe() -> Experiment:
        return experiment

    recipe.__doc__ = text
    return recipe
