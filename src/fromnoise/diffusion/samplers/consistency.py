"""Multistep consistency sampling (Song et al. 2023, alg. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.samplers.base import DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("sampler", "consistency")
@dataclass(frozen=True)
class ConsistencySampler(Sampler):
    """Multistep consistency sampling (Song et al. 2023, alg. 1): for models of ``fromnoise distill``.

    x_s = alpha_s x0_hat + sigma_s z

    Each step jumps to a clean image and adds fresh noise of the next level, so the errors of a jump are not carried
    along. A plain denoiser gives blurred images with it: its x0_hat is a mean.
    """

    default_steps = 2

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One jump to x_0, and the noise of level s; see ``Sampler.step``."""
        prediction = denoise(x, level_t)
        if level_s.sigma == 0:
            return prediction.x0, prediction, memory
        return level_s.noisy(prediction.x0, noise()), prediction, memory
