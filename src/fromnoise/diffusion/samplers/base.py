"""Step rules: from x at time t to x at time s < t.

A rule asks the denoiser for x_0 and combines; the loop is in ``sampler.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.process import forward, posterior_mean, posterior_variance, tau
from fromnoise.diffusion.schedules import NoiseLevel, Schedule

DenoiseFn = Callable[[Tensor, NoiseLevel], Prediction]
"""The denoiser with its condition bound."""
NoiseFn = Callable[[], Tensor]
"""Gives standard normal noise shaped as x, new at each call."""


class Sampler(ABC):
    """One step of a sampler. Frozen: what it must remember between steps it returns and is handed back."""

    @property
    def min_steps(self) -> int:
        """Steps that it needs to be what its name says."""
        return 1

    def start(self) -> Any:
        """The memory before the first step."""
        return None

    @abstractmethod
    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """Go from ``x`` at ``level_t`` to ``level_s``.

        Args:
            denoise: gives the prediction at any (x, level).
            x: (B, C, H, W) at level ``level_t``.
            here: level t.
            there: level s < t; s = 0 is the clean image.
            noise: gives fresh noise.
            memory: what the last step returned.

        Returns:
            x at ``level_s``, the prediction made on the way, the memory for the next step.
        """


@dataclass(frozen=True)
class Ancestral(Sampler):
    """Sample p(x_s | x_t) = N(posterior mean at the predicted x_0, variance) (Ho et al. 2020, alg. 2, for any s < t).

    The last step, to s = 0, shows the mean without noise.

    Attributes:
        f: variance from 0, small (beta tilde), to 1, large (beta), interpolated in the log; None takes the model's
            learned spread.
    """

    f: float | None = 0.0

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One ancestral step.

        Raises:
            ValueError: ``f`` is None and the model has learned no spread.
        """
        prediction = denoise(x, level_t)
        f = prediction.variance_fraction if self.f is None else self.f
        if f is None:
            raise ValueError("this model has learned no variance: choose a variance from 0 (small) to 1 (large)")
        mean = posterior_mean(prediction.x0, x, level_t, level_s)
        if level_s.sigma == 0:
            return mean, prediction, memory
        return mean + posterior_variance(level_t, level_s, f).sqrt() * noise(), prediction, memory


@dataclass(frozen=True)
class DDIM(Sampler):
    """alpha_s x_0 + sqrt(sigma_s^2 - v) eps + sqrt(v) z with v = eta^2 tau sigma_s^2 (Song et al. 2020, eq. 12 and 16).

    Attributes:
        eta: 0 is deterministic, 1 the ancestral rule with small variance.
    """

    eta: float = 0.0

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One DDIM step; eps is the one that belongs to the predicted (perhaps clipped) x_0."""
        prediction = denoise(x, level_t)
        variance = self.eta**2 * tau(level_t, level_s) * level_s.sigma**2
        mean = level_s.alpha * prediction.x0 + (level_s.sigma**2 - variance).clamp(min=0).sqrt() * level_t.eps(
            x, prediction.x0
        )
        if self.eta == 0 or level_s.sigma == 0:
            return mean, prediction, memory
        return mean + variance.sqrt() * noise(), prediction, memory


@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's second-order step in x/alpha and rho = sigma/alpha, where the flow is d(x/alpha)/d rho = eps.

    Karras et al. 2022, alg. 1 and 2. Two evaluations a step, one on the last, where it is Euler's. Euler's step alone
    is DDIM(0).

    Attributes:
        schedule: where a raised noise level has its time; needed for churn.
        churn: gamma of alg. 2: before each step the noise is raised to rho (1 + churn); 0 is deterministic.
    """

    schedule: Schedule | None = None
    churn: float = 0.0

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step."""
        if self.churn and self.schedule is not None and level_s.sigma > 0:
            x, level_t = self._raise(x, level_t, noise)
        prediction = denoise(x, level_t)
        euler, _, _ = DDIM().step(lambda y, level: prediction, x, level_t, level_s, noise, None)
        if level_s.sigma == 0 or level_t.alpha == 0:
            return euler, prediction, memory
        second = denoise(euler, level_s)
        run = level_s.sigma / level_s.alpha - level_t.sigma / level_t.alpha
        slope = (level_t.eps(x, prediction.x0) + level_s.eps(euler, second.x0)) / 2
        return level_s.alpha * (x / level_t.alpha + run * slope), prediction, memory

    def _raise(self, x: Tensor, level_t: NoiseLevel, noise: NoiseFn) -> tuple[Tensor, NoiseLevel]:
        """Go back up by fresh noise, as far as t = 1."""
        schedule = cast(Schedule, self.schedule)
        time = schedule.time(level_t.logsnr - 2 * math.log1p(self.churn))
        if time <= level_t.t:
            return x, level_t
        up = schedule.at(time)
        mean, variance = forward(x, up, level_t)
        return mean + variance.sqrt() * noise(), up


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """A predictor, then Langevin steps at the level reached (Song et al. 2021, alg. 5).

    Attributes:
        predictor: any rule.
        snr: r of their alg. 5: how long a Langevin step is for the noise in it.
        corrections: Langevin steps after each predictor's; each is an evaluation.
    """

    predictor: Sampler
    snr: float = 0.16
    corrections: int = 1

    @property
    def min_steps(self) -> int:
        """The predictor's."""
        return self.predictor.min_steps

    def start(self) -> Any:
        """The predictor's."""
        return self.predictor.start()

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """Predict, and correct unless the image is clean."""
        x, prediction, memory = self.predictor.step(denoise, x, level_t, level_s, noise, memory)
        for _ in range(self.corrections if level_s.sigma > 0 else 0):
            score = -level_s.eps(x, denoise(x, level_s).x0) / level_s.sigma
            # alg. 5 takes |z|/|score| over the batch; at a level it is near sigma, which knows nothing of the batch
            size = 2 * (self.snr * level_s.sigma) ** 2
            x = x + size * score + (2 * size).sqrt() * noise()
        return x, prediction, memory
