"""Recipes: every setting of a training, by the name that the command line uses."""

from attention_transfer.recipes.described import Recipe
from attention_transfer.recipes.registry import RECIPES

__all__ = ["RECIPES", "Recipe"]
