"""The recipe: every choice of a run, typed; unknown keys are errors.

A recipe is a TOML file, a name in ``recipes/`` or both with overrides.
"""

from __future__ import annotations

from fromnoise.config.files import change, difference, get, keys, load, names, parse, to_toml
from fromnoise.config.recipe import BUDGETS, Recipe
from fromnoise.config.sections import (
    ClusteringConfig,
    DataConfig,
    DiffusionConfig,
    EMAConfig,
    EvaluationConfig,
    LossConfig,
    NetworkConfig,
    SamplingConfig,
    TrainConfig,
)

__all__ = [
    "BUDGETS",
    "ClusteringConfig",
    "DataConfig",
    "DiffusionConfig",
    "EMAConfig",
    "EvaluationConfig",
    "LossConfig",
    "NetworkConfig",
    "Recipe",
    "SamplingConfig",
    "TrainConfig",
    "change",
    "difference",
    "get",
    "keys",
    "load",
    "names",
    "parse",
    "to_toml",
]
