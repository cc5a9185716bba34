"""Recipes: named experiments, by the names that the command line uses.

>>> experiment = RECIPES["cifar100-resnet56-resnet20"]()
>>> experiment.student, experiment.data.name, experiment.training.epochs
('resnet20', 'cifar100', 240)
>>> Recipe.__args__[-1].__name__
'Experiment'
>>> experiment.tiny().training.epochs  # small enough to run in seconds
1
"""

from attention_transfer.recipes.described import Recipe
from attention_transfer.recipes.registry import RECIPES

__all__ = ["RECIPES", "Recipe"]
