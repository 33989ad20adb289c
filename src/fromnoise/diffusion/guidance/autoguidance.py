"""Autoguidance: away from what a worse model draws."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.schedules import NoiseLevel


@dataclass(frozen=True)
class Autoguidance:
    """x_0 = w + scale (d - w), w by a weaker version of the model (Karras et al. 2024, "a bad version of itself").

    Both are told the same, so it needs no labels, and what it amplifies is quality alone.

    Attributes:
        denoise: the model.
        weak: the same less trained, or a smaller one, on the same schedule; asked once a step, as the model is.
        scale: 1 is the model alone, 0 the weak one.
    """

    denoise: Denoise
    weak: Denoise
    scale: float

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction."""
        if self.scale == 0:
            return self.weak(x, level, cond, previous)
        prediction = self.denoise(x, level, cond, previous)
        if self.scale == 1:
            return prediction
        weak = self.weak(x, level, cond, previous).x0
        return Prediction(weak + self.scale * (prediction.x0 - weak), prediction.variance_fraction)
