"""The recipe: every choice of a run, typed; unknown keys are errors.

A recipe is a TOML file, a name in ``recipes/`` or both with overrides.
"""

from __future__ import annotations

from fromnoise.config.files import change, difference, get, keys, load, names, parse, to_toml
from fromnoise.config.recipe import BUDGETS, Recipe
from fromnoise.config.sections import (
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
