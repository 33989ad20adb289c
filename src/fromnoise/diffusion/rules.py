"""Step rules: from x at time t to x at time s < t.

A rule asks the denoiser for x_0 and combines; the loop is in ``sampler.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.schedule import Level
from fromnoise.diffusion.transition import posterior_mean, posterior_variance, tau

Ask = Callable[[Tensor, Level], Prediction]
"""The denoiser with its condition bound."""
Fresh = Callable[[], Tensor]
"""Gives standard normal noise shaped as x, new at each call."""


class Rule(ABC):
    """One step of a sampler. Frozen: what it must remember between steps it returns and is handed back."""

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
