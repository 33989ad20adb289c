"""Denoisers that wrap denoisers: each takes a prediction and bends its x_0; no rule of the sampler knows of any.

A wrapper is anything called as ``wrapper(x, level, cond, previous) -> Prediction``. They nest: what is inside is asked
first. Adding one is one file.
"""

from fromnoise.diffusion.guidance.autoguidance import Autoguidance
from fromnoise.diffusion.guidance.classifier import ByClassifier, Classifier
from fromnoise.diffusion.guidance.classifier_free import ClassifierFree, Untold
from fromnoise.diffusion.guidance.clipping import Clip, Threshold
from fromnoise.diffusion.guidance.interval import During
from fromnoise.diffusion.inverse.solvers import PiGDM, Posterior, Projected

__all__ = [
    "Autoguidance",
    "ByClassifier",
    "Classifier",
    "ClassifierFree",
    "Clip",
    "During",
    "PiGDM",
    "Posterior",
    "Projected",
    "Threshold",
    "Untold",
]
