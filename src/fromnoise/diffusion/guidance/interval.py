"""Guidance at some noise levels only."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.schedules import NoiseLevel


@dataclass(frozen=True)
class IntervalGuidance:
    """One denoiser at the levels of an interval of log-SNR, another at all others.

    Guidance harms where the noise is strongest and is idle where there is hardly any (Kynkaanniemi et al. 2024,
    "Applying guidance in a limited interval"). Outside of it only the cheaper call is made.

    Attributes:
        inside: guided, say.
        outside: the plain model.
        low: least log-SNR of ``inside``; -inf begins at pure noise.
        high: largest log-SNR of ``inside``; inf ends at the clean image.
    """

    inside: Denoise
    outside: Denoise
    low: float
    high: float

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The prediction of the one whose level it is."""
        chosen = self.inside if self.low <= float(level.logsnr) <= self.high else self.outside
        return chosen(x, level, cond, previous)
