"""The network's input for the noise level, ``t``."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


class NoiseConditioning(ABC):
    """The network's time input."""

    @abstractmethod
    def value(self, level: NoiseLevel) -> Tensor:
        """The network's time input at ``level``, float64, shape of ``level.t``."""


@register("noise_conditioning", "timestep")
class TimestepConditioning(NoiseConditioning):
    """The timestep as the original numbers it: 0 for k = 1, up to T - 1."""

    def __init__(self, timesteps: int = 1000, rescale_to: int | None = None) -> None:
        """Count timesteps.

        Args:
            timesteps: T, the number of timesteps between t = 0 and t = 1.
            rescale_to: multiply by this number over T, as in Nichol and Dhariwal 2021, whose networks are given times
                below 1000 at any T; null: no factor

        Raises:
            ValueError: a number is smaller than 1.
        """
        if timesteps < 1 or (rescale_to is not None and rescale_to < 1):
            raise ValueError(f"timesteps={timesteps} and rescale_to={rescale_to} must be 1 or more")
        self.timesteps, self.rescale_to = timesteps, rescale_to

    def value(self, level: NoiseLevel) -> Tensor:
        """T t - 1, times rescale_to / T."""
        t = level.t * self.timesteps - 1
        return t if self.rescale_to is None else t * (self.rescale_to / self.timesteps)


@register("noise_conditioning", "log-sigma")
class LogSigmaConditioning(NoiseConditioning):
    """A quarter of the log noise level: ln(sigma/alpha)/4 (c_noise of Karras et al. 2022, table 1)."""

    def value(self, level: NoiseLevel) -> Tensor:
        """-logsnr / 8."""
        return (-level.logsnr.double() / 8).reshape(level.t.shape)
