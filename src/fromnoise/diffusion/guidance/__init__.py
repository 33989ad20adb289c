"""Guidance: denoisers that wrap a denoiser and change its estimate of x_0.

A wrapper is called as the denoiser that it wraps, ``wrapper(x, level, cond, previous) -> Prediction``, so that wrappers
nest and no sampler depends on any of them. The wrappers that need a denoiser and a scale alone are registered in the
family ``"guidance"`` and can be selected by name. To add one, put a file into this folder, or register it in a module
of your own:

    @register("guidance", "my-guidance")
    @dataclass(frozen=True)
    class MyGuidance:
        denoise: Denoise
        scale: float
        my_option: float = 0.0

        def __call__(self, x, level, cond=None, previous=None) -> Prediction: ...

    wrapped = registry.build("guidance", "my-guidance", {"my_option": 1.0}, denoise=denoiser, scale=3.0)
"""

from fromnoise.diffusion.guidance.autoguidance import Autoguidance
from fromnoise.diffusion.guidance.classifier import Classifier, ClassifierGuidance
from fromnoise.diffusion.guidance.classifier_free import ClassifierFreeGuidance, Unconditional
from fromnoise.diffusion.guidance.clipping import Clip, Threshold
from fromnoise.diffusion.guidance.interval import IntervalGuidance
from fromnoise.registry import import_submodules

import_submodules(__name__, __path__)

__all__ = [
    "Autoguidance",
    "Classifier",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "Clip",
    "IntervalGuidance",
    "Threshold",
    "Unconditional",
]
