"""DDIM (Song et al. 2021, "Denoising diffusion implicit models")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.process import tau
from fromnoise.diffusion.samplers.base import DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("sampler", "ddim")
@dataclass(frozen=True)
class DDIM(Sampler):
    """Deterministic or stochastic DDIM step (Song et al. 2021, eqs. 12 and 16).

    x_s = alpha_s x0_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z,   v = eta^2 sigma_s^2 (1 - SNR_t / SNR_s)

    eps_hat is the noise that belongs to the predicted x_0, clipped or not.

    Attributes:
        eta: 0 is deterministic, 1 equals ancestral sampling with the small variance.
    """

    eta: float = 0.0

    default_steps = 50

    def __post_init__(self) -> None:
        """Check eta.

        Raises:
            ValueError: it lies outside [0, 1].
        """
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must lie between 0 (deterministic) and 1 (ancestral)")

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One DDIM step; see ``Sampler.step``."""
        prediction = denoise(x, level_t)
        variance = self.eta**2 * tau(level_t, level_s) * level_s.sigma**2
        eps = level_t.eps(x, prediction.x0)
        mean = level_s.alpha * prediction.x0 + (level_s.sigma**2 - variance).clamp(min=0).sqrt() * eps
        if self.eta == 0 or level_s.sigma == 0:
            return mean, prediction, memory
        return mean + variance.sqrt() * noise(), prediction, memory


@register("sampler", "euler")
@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method on the probability-flow ODE in x/alpha and sigma/alpha: the same step as DDIM with eta = 0."""

    default_steps = 50

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One Euler step; see ``Sampler.step``."""
        return DDIM().step(denoise, x, level_t, level_s, noise, memory)
