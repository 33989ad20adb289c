"""Targets: what the network regresses, and how the clean image follows from its output.

Every target is a linear function of x_0 and eps, given by three formulas: ``target_from(x0, eps)``, its inverse ``x0``
at fixed x_t, and ``snr_weight``, the factor between a squared error in x_0 and the squared error in the target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from fromnoise.diffusion.process import posterior_mean, tau
from fromnoise.diffusion.schedules import NoiseLevel, Schedule
from fromnoise.registry import register


class Target(ABC):
    """A parameterization of the denoiser."""

    @abstractmethod
    def target_from(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """The value to regress, shape of ``x0``."""

    @abstractmethod
    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """The clean image that network output ``out`` at the noisy image ``x`` implies."""

    @abstractmethod
    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """(d target / d x_0)^2 at fixed x_t, shaped as ``level.alpha``; SNR for the noise itself."""

    def scale_input(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The network's input at the noisy image ``x``: ``x`` itself, unless a target scales it."""
        return x


@register("target", "eps")
class Eps(Target):
    """The noise eps (Ho et al. 2020, eq. 14)."""

    def target_from(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """eps."""  # noqa: D403
        return eps

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """(x - sigma eps) / alpha."""
        return (x - level.sigma * out) / level.alpha

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """SNR."""
        return level.snr


@register("target", "x0")
class X0(Target):
    """The clean image x_0."""

    def target_from(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """x_0."""  # noqa: D403
        return x0

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """The output itself."""
        return out

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """1."""
        return level.alpha.new_ones(level.alpha.shape)


@register("target", "v")
class V(Target):
    """The velocity v = alpha eps - sigma x_0 (Salimans and Ho 2022, sec. 4)."""

    def target_from(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """Alpha eps - sigma x_0."""
        return level.alpha * eps - level.sigma * x0

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """Alpha x - sigma v."""
        return level.alpha * x - level.sigma * out

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """1/sigma^2 = SNR + 1."""
        return level.sigma**-2


@register("target", "edm")
@dataclass(frozen=True)
class EDM(Target):
    """The EDM preconditioning: network input and output of unit variance (Karras et al. 2022, table 1).

    x_0 = (alpha d^2 / s^2) x + (sigma d / s) F,   s^2 = sigma^2 + alpha^2 d^2,   d = sigma_data,

    with sigma/alpha in place of their sigma. At d = 1 the target F is -v.

    Attributes:
        sigma_data: standard deviation d of the clean images' values in [-1, 1].
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        """Check the deviation.

        Raises:
            ValueError: it is not positive.
        """
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data={self.sigma_data} must be positive")

    def _scale(self, level: NoiseLevel) -> Tensor:
        """s, the standard deviation of x_t."""  # noqa: D403
        return (level.sigma**2 + (level.alpha * self.sigma_data) ** 2).sqrt()

    def target_from(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """F = (sigma x_0 - alpha d^2 eps) / (s d)."""
        d = self.sigma_data
        return (level.sigma * x0 - level.alpha * d**2 * eps) / (self._scale(level) * d)

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """(alpha d^2 / s^2) x + (sigma d / s) F."""
        d, s = self.sigma_data, self._scale(level)
        return level.alpha * d**2 / s**2 * x + level.sigma * d / s * out

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """s^2 / (sigma d)^2."""  # noqa: D403
        return (self._scale(level) / (level.sigma * self.sigma_data)) ** 2

    def scale_input(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """x_t / s."""  # noqa: D403
        return x / self._scale(level).to(x)


@register("target", "posterior-mean")
class PosteriorMean(Target):
    """The mean of q(x_{k-1} | x_k, x_0), mu tilde (Ho et al. 2020, eq. 8); beta schedules only."""

    def __init__(self, schedule: Schedule) -> None:
        """Keep the schedule, whose neighbouring steps the mean connects.

        Args:
            schedule: a beta schedule.

        Raises:
            ValueError: the schedule is continuous.
        """
        if schedule.steps is None:
            raise ValueError("target posterior-mean needs a beta schedule, such as linear, cosine or sigmoid")
        self.schedule, self.steps = schedule, schedule.steps

    def _previous(self, level: NoiseLevel, like: Tensor | None) -> NoiseLevel:
        """The level of step k - 1."""
        return self.schedule.at((level.t - 1 / self.steps).clamp(min=0), like=like if level.alpha.ndim else None)

    def target_from(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """mu tilde(x_k, x_0)."""  # noqa: D403
        return posterior_mean(x0, level.noisy(x0, eps), level, self._previous(level, x0))

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """The posterior mean solved for x_0."""
        previous = self._previous(level, x)
        return (out - posterior_mean(x.new_zeros(()), x, level, previous)) / (previous.alpha * tau(level, previous))

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """(alpha_{k-1} tau)^2."""
        previous = self._previous(level, level.alpha)
        return (previous.alpha * tau(level, previous)) ** 2
