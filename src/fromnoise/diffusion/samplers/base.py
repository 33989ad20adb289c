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
from fromnoise.diffusion.schedules import Level, Schedule

Ask = Callable[[Tensor, Level], Prediction]
"""The denoiser with its condition bound."""
Fresh = Callable[[], Tensor]
"""Gives standard normal noise shaped as x, new at each call."""


class Rule(ABC):
    """One step of a sampler. Frozen: what it must remember between steps it returns and is handed back."""

    @property
    def fewest(self) -> int:
        """Steps that it needs to be what its name says."""
        return 1

    def start(self) -> Any:
        """The memory before the first step."""
        return None

    @abstractmethod
    def step(
        self, denoise: Ask, x: Tensor, here: Level, there: Level, noise: Fresh, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """Go from ``x`` at ``here`` to ``there``.

        Args:
            denoise: gives the prediction at any (x, level).
            x: (B, C, H, W) at level ``here``.
            here: level t.
            there: level s < t; s = 0 is the clean image.
            noise: gives fresh noise.
            memory: what the last step returned.

        Returns:
            x at ``there``, the prediction made on the way, the memory for the next step.
        """


@dataclass(frozen=True)
class Ancestral(Rule):
    """Sample p(x_s | x_t) = N(posterior mean at the predicted x_0, variance) (Ho et al. 2020, alg. 2, for any s < t).

    The last step, to s = 0, shows the mean without noise.

    Attributes:
        f: variance from 0, small (beta tilde), to 1, large (beta), interpolated in the log; None takes the model's
            learned spread.
    """

    f: float | None = 0.0

    def step(
        self, denoise: Ask, x: Tensor, here: Level, there: Level, noise: Fresh, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One ancestral step.

        Raises:
            ValueError: ``f`` is None and the model has learned no spread.
        """
        told = denoise(x, here)
        f = told.spread if self.f is None else self.f
        if f is None:
            raise ValueError("this model has learned no variance: choose a variance from 0 (small) to 1 (large)")
        mean = posterior_mean(told.x0, x, here, there)
        if there.sigma == 0:
            return mean, told, memory
        return mean + posterior_variance(here, there, f).sqrt() * noise(), told, memory


@dataclass(frozen=True)
class DDIM(Rule):
    """alpha_s x_0 + sqrt(sigma_s^2 - v) eps + sqrt(v) z with v = eta^2 tau sigma_s^2 (Song et al. 2020, eq. 12 and 16).

    Attributes:
        eta: 0 is deterministic, 1 the ancestral rule with small variance.
    """

    eta: float = 0.0

    def step(
        self, denoise: Ask, x: Tensor, here: Level, there: Level, noise: Fresh, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One DDIM step; eps is the one that belongs to the predicted (perhaps clipped) x_0."""
        told = denoise(x, here)
        variance = self.eta**2 * tau(here, there) * there.sigma**2
        mean = there.alpha * told.x0 + (there.sigma**2 - variance).clamp(min=0).sqrt() * here.eps(x, told.x0)
        if self.eta == 0 or there.sigma == 0:
            return mean, told, memory
        return mean + variance.sqrt() * noise(), told, memory


@dataclass(frozen=True)
class Heun(Rule):
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
        self, denoise: Ask, x: Tensor, here: Level, there: Level, noise: Fresh, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step."""
        if self.churn and self.schedule is not None and there.sigma > 0:
            x, here = self._raise(x, here, noise)
        told = denoise(x, here)
        euler, _, _ = DDIM().step(lambda y, level: told, x, here, there, noise, None)
        if there.sigma == 0 or here.alpha == 0:
            return euler, told, memory
        second = denoise(euler, there)
        run = there.sigma / there.alpha - here.sigma / here.alpha
        slope = (here.eps(x, told.x0) + there.eps(euler, second.x0)) / 2
        return there.alpha * (x / here.alpha + run * slope), told, memory

    def _raise(self, x: Tensor, here: Level, noise: Fresh) -> tuple[Tensor, Level]:
        """Go back up by fresh noise, as far as t = 1."""
        schedule = cast(Schedule, self.schedule)
        time = schedule.time(here.logsnr - 2 * math.log1p(self.churn))
        if time <= here.t:
            return x, here
        up = schedule.at(time)
        mean, variance = forward(x, up, here)
        return mean + variance.sqrt() * noise(), up


@dataclass(frozen=True)
class Corrected(Rule):
    """A predictor, then Langevin steps at the level reached (Song et al. 2021, alg. 5).

    Attributes:
        predictor: any rule.
        snr: r of their alg. 5: how long a Langevin step is for the noise in it.
        corrections: Langevin steps after each predictor's; each is an evaluation.
    """

    predictor: Rule
    snr: float = 0.16
    corrections: int = 1

    @property
    def fewest(self) -> int:
        """The predictor's."""
        return self.predictor.fewest

    def start(self) -> Any:
        """The predictor's."""
        return self.predictor.start()

    def step(
        self, denoise: Ask, x: Tensor, here: Level, there: Level, noise: Fresh, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """Predict, and correct unless the image is clean."""
        x, told, memory = self.predictor.step(denoise, x, here, there, noise, memory)
        for _ in range(self.corrections if there.sigma > 0 else 0):
            score = -there.eps(x, denoise(x, there).x0) / there.sigma
            # alg. 5 takes |z|/|score| over the batch; at a level it is near sigma, which knows nothing of the batch
            size = 2 * (self.snr * there.sigma) ** 2
            x = x + size * score + (2 * size).sqrt() * noise()
        return x, told, memory
