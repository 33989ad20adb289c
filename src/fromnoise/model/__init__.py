"""From a recipe to objects: the model, its training loss, and everything that sampling needs."""

from fromnoise.model.build import build, recipe_of
from fromnoise.model.model import CONTINUOUS_STEPS, Model, Wrapper, clipped, no_wrapper, reverse_variance, with_sampler

__all__ = [
    "CONTINUOUS_STEPS",
    "Model",
    "Wrapper",
    "build",
    "clipped",
    "no_wrapper",
    "recipe_of",
    "reverse_variance",
    "with_sampler",
]
