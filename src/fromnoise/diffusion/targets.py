"""What the network regresses, and how the clean image follows from it.

Every target is a linear function of (x_t, x_0), so each is told by three formulas: what it ``of`` a clean image and
its noise is, the ``x0`` that an output means, and its ``snr_weight``, the factor by which a squared error in x_0 shows in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from fromnoise.diffusion.process import posterior_mean, tau
from fromnoise.diffusion.schedules import NoiseLevel, Schedule


class Target(ABC):
    """A parameterisation of the denoiser."""

    @abstractmethod
    def of(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """The value that the network should give, shape of ``x0``."""

    @abstractmethod
    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """The clean image that output ``out`` at noisy image ``x`` stands for."""

    @abstractmethod
    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """(d target / d x_0)^2 at fixed x_t, shaped as ``level.alpha``."""

    def scale_input(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """What the network is shown of the noisy image ``x``: itself, unless a target scales it."""
        return x


class Eps(Target):
    """The noise: eps (Ho et al. 2020, eq. 14)."""

    def of(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """Eps itself."""
        return eps

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """(x - sigma eps) / alpha."""
        return (x - level.sigma * out) / level.alpha

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """SNR."""
        return level.snr


class X0(Target):
    """The clean image."""

    def of(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """x0 itself."""
        return x0

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """The output itself."""
        return out

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """1."""
        return level.alpha.new_ones(level.alpha.shape)


class V(Target):
    """The velocity v = alpha eps - sigma x_0 (Salimans and Ho 2022, sec. 4)."""

    def of(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """Alpha eps - sigma x0."""
        return level.alpha * eps - level.sigma * x0

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """Alpha x - sigma v."""
        return level.alpha * x - level.sigma * out

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """1/sigma^2 = SNR + 1."""
        return level.sigma**-2


@dataclass(frozen=True)
class EDM(Target):
    """F of unit variance, shown images of unit variance (Karras et al. 2022, table 1, "EDM", at sigma/alpha for sigma).

    x_0 = (alpha d^2 / s^2) x + (sigma d / s) F, s^2 = sigma^2 + alpha^2 d^2; at d = 1 it is -v.

    Attributes:
        deviation: d, of the clean images' values in [-1, 1].
    """

    deviation: float = 0.5

    def _scale(self, level: NoiseLevel) -> Tensor:
        """s, the deviation of x."""
        return (level.sigma**2 + (level.alpha * self.deviation) ** 2).sqrt()

    def of(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """(sigma x0 - alpha d^2 eps) / (s d)."""
        d = self.deviation
        return (level.sigma * x0 - level.alpha * d**2 * eps) / (self._scale(level) * d)

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """(alpha d^2 / s^2) x + (sigma d / s) F."""
        d, s = self.deviation, self._scale(level)
        return level.alpha * d**2 / s**2 * x + level.sigma * d / s * out

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """s^2 / (sigma d)^2."""
        return (self._scale(level) / (level.sigma * self.deviation)) ** 2

    def scale_input(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The image over s."""
        return x / self._scale(level).to(x)


class PosteriorMean(Target):
    """The mean of q(x_{k-1} | x_k, x_0), "mu tilde" (Ho et al. 2020, eq. 8); for tables only."""

    def __init__(self, schedule: Schedule) -> None:
        """Remember the table, whose neighbouring steps the mean joins.

        Raises:
            ValueError: the schedule has no steps.
        """
        if schedule.steps is None:
            raise ValueError("the posterior mean is a target of step tables only")
        self.schedule, self.steps = schedule, schedule.steps

    def _before(self, level: NoiseLevel, like: Tensor | None) -> NoiseLevel:
        return self.schedule.at((level.t - 1 / self.steps).clamp(min=0), like=like if level.alpha.ndim else None)

    def of(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """Posterior mean one step down."""
        return posterior_mean(x0, level.noisy(x0, eps), level, self._before(level, x0))

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """Solve the posterior mean for x_0."""
        before = self._before(level, x)
        return (out - posterior_mean(x.new_zeros(()), x, level, before)) / (before.alpha * tau(level, before))

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """(alpha_s tau)^2."""
        before = self._before(level, level.alpha)
        return (before.alpha * tau(level, before)) ** 2
