"""Guidance in a limited interval of noise levels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.schedules import NoiseLevel


@dataclass(frozen=True)
class IntervalGuidance:
    """Use a guided denoiser inside an interval of log-SNR and the plain one outside (Kynkaanniemi et al. 2024).

    Guidance reduces variety at high noise and has hardly any effect at low noise. Only one of the two is evaluated.

    Args:
        inside: the guided denoiser.
        outside: the plain denoiser.
        low: smallest log-SNR at which ``inside`` is used; -inf begins at pure noise.
        high: largest log-SNR at which ``inside`` is used; inf ends at the clean image.

    Source: Kynkaanniemi et al. 2024, "Applying guidance in a limited interval improves sample and distribution quality
    in diffusion models".
    """

    inside: Denoise
    outside: Denoise
    low: float
    high: float

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The prediction of the denoiser of this level; arguments as of ``Denoiser.forward``."""
        denoise = self.inside if self.low <= float(level.logsnr) <= self.high else self.outside
        return denoise(x, level, cond, previous)
