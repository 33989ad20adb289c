"""Autoguidance: extrapolate from a weaker model's prediction to the model's own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("guidance", "autoguidance")
@dataclass(frozen=True)
class Autoguidance:
    """Guide a model away from the errors of a weaker version of itself (Karras et al. 2024, eq. 3).

    x0_guided = x0_weak + scale (x0 - x0_weak)

    Both models receive the same condition, so that guidance needs no labels and does not reduce variety as
    classifier-free guidance does.

    Args:
        denoise: the model.
        weak: a less trained or smaller model on the same noise schedule; evaluated once a step.
        scale: 1 is the model alone, 0 the weak model alone; each of these costs one evaluation.

    Source: Karras et al. 2024, "Guiding a diffusion model with a bad version of itself".
    """

    denoise: Denoise
    weak: Denoise
    scale: float

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction, with the variance of ``denoise``; arguments as of ``Denoiser.forward``."""
        if self.scale == 0:
            return self.weak(x, level, cond, previous)
        prediction = self.denoise(x, level, cond, previous)
        if self.scale == 1:
            return prediction
        weak = self.weak(x, level, cond, previous).x0
        return Prediction(weak + self.scale * (prediction.x0 - weak), prediction.variance_fraction)
