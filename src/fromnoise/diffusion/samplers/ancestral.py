"""Ancestral sampling of the reverse chain (Ho et al. 2020, alg. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.process import posterior_mean, posterior_variance
from fromnoise.diffusion.samplers.base import DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("sampler", "ancestral")
@dataclass(frozen=True)
class Ancestral(Sampler):
    """Ancestral sampling (Ho et al. 2020, alg. 2), for any s < t.

    x_s ~ N(mu(x_t, x0_hat), tau sigma_s^(2(1-f)) sigma_t^(2f)),   tau = 1 - SNR_t / SNR_s,
    with mu the mean of q(x_s | x_t, x_0). The last step, to s = 0, returns the mean without noise.

    Attributes:
        variance: f, from 0 (small, beta tilde) to 1 (large, beta), interpolated in the logarithm; None is the model's
            learned variance, or 0 if it has none.
    """

    variance: float | None = None

    default_steps = None

    def __post_init__(self) -> None:
        """Check the variance.

        Raises:
            ValueError: it lies outside [0, 1].
        """
        if self.variance is not None and not 0 <= self.variance <= 1:
            raise ValueError(f"variance={self.variance} must lie between 0 (small) and 1 (large)")

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One ancestral step; see ``Sampler.step``."""
        prediction = denoise(x, level_t)
        f = prediction.variance_fraction if self.variance is None else self.variance
        mean = posterior_mean(prediction.x0, x, level_t, level_s)
        if level_s.sigma == 0:
            return mean, prediction, memory
        variance = posterior_variance(level_t, level_s, 0.0 if f is None else f)
        return mean + variance.sqrt() * noise(), prediction, memory
