"""The Euler-Maruyama discretization of the reverse-time SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction, score, velocity
from fromnoise.diffusion.samplers.base import DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("sampler", "sde")
@dataclass(frozen=True)
class ReverseSDE(Sampler):
    """Euler-Maruyama step of the reverse-time SDE over lambda = logsnr / 2 (Song et al. 2021, eq. 6).

    dx = (dx/d lambda of the flow + sigma^2 score) d lambda + sqrt(2) sigma dw

    The plain discretization, with which the exponential integrators are compared; of strong order 1, as the noise does
    not depend on x.
    """

    default_steps = 250

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step; where lambda is infinite (pure noise, clean image) x_0 under fresh noise. See ``Sampler.step``."""
        prediction = denoise(x, level_t)
        if not bool(torch.isfinite(level_t.logsnr)) or level_s.sigma == 0:
            fresh = level_s.sigma * noise() if level_s.sigma > 0 else 0
            return level_s.alpha * prediction.x0 + fresh, prediction, memory
        h = (level_s.logsnr - level_t.logsnr) / 2
        drift = velocity(x, prediction, level_t) + level_t.sigma**2 * score(x, prediction, level_t)
        return x + h * drift + (2 * h).sqrt() * level_t.sigma * noise(), prediction, memory
