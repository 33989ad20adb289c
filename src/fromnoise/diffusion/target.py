"""What the network regresses, and how the clean image follows from it.

Every target is a linear function of (x_t, x_0), so each is told by three formulas: what it ``of`` a clean image and
its noise is, the ``x0`` that an output means, and its ``gain``, the factor by which a squared error in x_0 shows in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from fromnoise.diffusion.schedule import Level, Schedule
from fromnoise.diffusion.transition import posterior_mean, tau


class Target(ABC):
    """A parameterisation of the denoiser."""

    @abstractmethod
    def of(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """The value that the network should give, shape of ``x0``."""

    @abstractmethod
    def x0(self, x: Tensor, out: Tensor, level: Level) -> Tensor:
        """The clean image that output ``out`` at noisy image ``x`` stands for."""

    @abstractmethod
    def gain(self, level: Level) -> Tensor:
        """(d target / d x_0)^2 at fixed x_t, shaped as ``level.alpha``."""


class Eps(Target):
    """The noise: eps (Ho et al. 2020, eq. 14)."""

    def of(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """Eps itself."""
        return eps

    def x0(self, x: Tensor, out: Tensor, level: Level) -> Tensor:
        """(x - sigma eps) / alpha."""
        return (x - level.sigma * out) / level.alpha

    def gain(self, level: Level) -> Tensor:
        """SNR."""
        return level.snr


class X0(Target):
    """The clean image."""

    def of(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """x0 itself."""
        return x0

    def x0(self, x: Tensor, out: Tensor, level: Level) -> Tensor:
        """The output itself."""
        return out

    def gain(self, level: Level) -> Tensor:
        """1."""
        return level.alpha.new_ones(level.alpha.shape)


class V(Target):
    """The velocity v = alpha eps - sigma x_0 (Salimans and Ho 2022, sec. 4)."""

    def of(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """Alpha eps - sigma x0."""
        return level.alpha * eps - level.sigma * x0

    def x0(self, x: Tensor, out: Tensor, level: Level) -> Tensor:
        """Alpha x - sigma v."""
        return level.alpha * x - level.sigma * out

    def gain(self, level: Level) -> Tensor:
        """1/sigma^2 = SNR + 1."""
        return level.sigma**-2


class Mean(Target):
    """The mean of q(x_{k-1} | x_k, x_0), "mu tilde" (Ho et al. 2020, eq. 8); for tables only."""

    def __init__(self, schedule: Schedule) -> None:
        """Remember the table, whose neighbouring steps the mean joins.

        Raises:
            ValueError: the schedule has no steps.
        """
        if schedule.steps is None:
            raise ValueError("the posterior mean is a target of step tables only")
        self.schedule, self.steps = schedule, schedule.steps

    def _before(self, level: Level, like: Tensor | None) -> Level:
        return self.schedule.at((level.t - 1 / self.steps).clamp(min=0), like=like if level.alpha.ndim else None)

    def of(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """Posterior mean one step down."""
        return posterior_mean(x0, level.noisy(x0, eps), level, self._before(level, x0))

    def x0(self, x: Tensor, out: Tensor, level: Level) -> Tensor:
        """Solve the posterior mean for x_0."""
        before = self._before(level, x)
        return (out - posterior_mean(x.new_zeros(()), x, level, before)) / (before.alpha * tau(level, before))

    def gain(self, level: Level) -> Tensor:
        """(alpha_s tau)^2."""
        before = self._before(level, level.alpha)
        return (before.alpha * tau(level, before)) ** 2
