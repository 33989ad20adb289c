"""Heun's second-order method (Karras et al. 2022, algs. 1 and 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.process import forward
from fromnoise.diffusion.samplers.base import DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.samplers.ddim import DDIM
from fromnoise.diffusion.schedules import NoiseLevel, Schedule
from fromnoise.registry import register


@register("sampler", "heun")
@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method on the probability-flow ODE (Karras et al. 2022, algs. 1 and 2).

    In x/alpha and rho = sigma/alpha the flow is d(x/alpha)/d rho = eps_hat. Two evaluations a step, one in the last,
    which is an Euler step.

    Attributes:
        schedule: finds the time of a raised noise level; needed for churn.
        churn: gamma of alg. 2: before each step the noise level is raised to rho (1 + churn) by fresh noise; 0 is
            deterministic.
    """

    schedule: Schedule | None = None
    churn: float = 0.0

    default_grid = "logsnr"
    default_steps = 15
    evaluations = 2

    def __post_init__(self) -> None:
        """Check the churn.

        Raises:
            ValueError: it is negative or not finite.
        """
        if not 0 <= self.churn < math.inf:
            raise ValueError(f"churn={self.churn} must be 0 or more")

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One Heun step; see ``Sampler.step``.

        Raises:
            ValueError: churn without a schedule.
        """
        if self.churn and level_s.sigma > 0:
            if self.schedule is None:
                raise ValueError(f"churn={self.churn} needs the model's schedule: Heun(schedule, {self.churn})")
            x, level_t = self._add_noise(self.schedule, x, level_t, noise)
        prediction = denoise(x, level_t)
        euler, _, _ = DDIM().step(lambda y, level: prediction, x, level_t, level_s, noise, None)
        if level_s.sigma == 0 or level_t.alpha == 0:
            return euler, prediction, memory
        second = denoise(euler, level_s)
        run = level_s.sigma / level_s.alpha - level_t.sigma / level_t.alpha
        slope = (level_t.eps(x, prediction.x0) + level_s.eps(euler, second.x0)) / 2
        return level_s.alpha * (x / level_t.alpha + run * slope), prediction, memory

    def _add_noise(
        self, schedule: Schedule, x: Tensor, level_t: NoiseLevel, noise: NoiseFn
    ) -> tuple[Tensor, NoiseLevel]:
        """Raise the noise level by fresh noise, at most to t = 1."""
        time = schedule.time_from_logsnr(level_t.logsnr - 2 * math.log1p(self.churn))
        if time <= level_t.t:
            return x, level_t
        raised = schedule.at(time)
        mean, variance = forward(x, raised, level_t)
        return mean + variance.sqrt() * noise(), raised
