"""The recipe: every choice of a run, typed; unknown keys are errors.

A recipe is a TOML file, a name in ``recipes/`` or both with overrides.
"""

from __future__ import annotations

from fromnoise.recipe.files import change, difference, get, keys, load, names, parse, to_toml
from fromnoise.recipe.parts import (
    ClusterRecipe,
    DataRecipe,
    DiffusionRecipe,
    EmaRecipe,
    JudgeRecipe,
    LossRecipe,
    NetworkRecipe,
    SampleRecipe,
    TrainRecipe,
)
from fromnoise.recipe.whole import BUDGETS, Recipe

__all__ = [
    "BUDGETS",
    "ClusterRecipe",
    "DataRecipe",
    "DiffusionRecipe",
    "EmaRecipe",
    "JudgeRecipe",
    "LossRecipe",
    "NetworkRecipe",
    "Recipe",
    "SampleRecipe",
    "TrainRecipe",
    "change",
    "difference",
    "get",
    "keys",
    "load",
    "names",
    "parse",
    "to_toml",
]
