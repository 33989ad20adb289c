"""Denoisers that wrap denoisers: each takes a prediction and bends its x_0; no rule of the sampler knows of any.

A wrapper is anything called as ``wrapper(x, level, cond, previous) -> Prediction``. They nest: what is inside is asked
first. Adding one is one file.
"""

from fromnoise.diffusion.guidance.autoguidance import Autoguidance
from fromnoise.diffusion.guidance.classifier import Classifier, ClassifierGuidance
from fromnoise.diffusion.guidance.classifier_free import ClassifierFreeGuidance, Unconditional
from fromnoise.diffusion.guidance.clipping import Clip, Threshold
from fromnoise.diffusion.guidance.interval import IntervalGuidance
from fromnoise.diffusion.inverse.solvers import DDNM, PiGDM, Posterior

__all__ = [
    "Autoguidance",
    "ClassifierGuidance",
    "Classifier",
    "ClassifierFreeGuidance",
    "Clip",
    "IntervalGuidance",
    "PiGDM",
    "Posterior",
    "DDNM",
    "Threshold",
    "Unconditional",
]
