"""The recipe: all settings of a run, with types; unknown keys are errors.

A recipe is a TOML file or the name of a file in ``recipes/``, with values that replace some of its own.
"""

from __future__ import annotations

from fromnoise.config.component import ComponentConfig, to_config
from fromnoise.config.files import (
    MissingComponent,
    change,
    component_keys,
    difference,
    flat,
    get,
    keys,
    load,
    names,
    parse,
    parse_toml,
    to_toml,
)
from fromnoise.config.recipe import BUDGETS, Recipe
from fromnoise.config.sections import (
    ClusteringConfig,
    DataConfig,
    DiffusionConfig,
    EMAConfig,
    EvaluationConfig,
    LossConfig,
    SamplingConfig,
    TrainConfig,
)

__all__ = [
    "ComponentConfig",
    "component_keys",
    "to_config",
    "BUDGETS",
    "ClusteringConfig",
    "DataConfig",
    "DiffusionConfig",
    "EMAConfig",
    "EvaluationConfig",
    "LossConfig",
    "MissingComponent",
    "Recipe",
    "SamplingConfig",
    "TrainConfig",
    "change",
    "difference",
    "flat",
    "get",
    "keys",
    "load",
    "names",
    "parse",
    "parse_toml",
    "to_toml",
]
