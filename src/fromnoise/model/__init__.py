"""From a recipe to objects: the model, its training loss, and everything that sampling needs."""

from fromnoise.model.autoencoder import AutoencoderModel
from fromnoise.model.build import build, build_autoencoder, build_trainable, recipe_of
from fromnoise.model.guided import Wrapper, clipped, no_wrapper
from fromnoise.model.model import CONTINUOUS_STEPS, Model, reverse_variance, with_sampler

__all__ = [
    "AutoencoderModel",
    "CONTINUOUS_STEPS",
    "Model",
    "Wrapper",
    "build",
    "build_autoencoder",
    "build_trainable",
    "clipped",
    "no_wrapper",
    "recipe_of",
    "reverse_variance",
    "with_sampler",
]
