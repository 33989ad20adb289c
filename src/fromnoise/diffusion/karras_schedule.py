"""The noise levels of Karras et al. 2022, in continuous time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fromnoise.diffusion.schedules import Schedule
from fromnoise.registry import register


@register("schedule", "karras")
class KarrasSchedule(Schedule):
    """sigma/alpha from sigma_min to sigma_max, its power 1/rho linear in t (Karras et al. 2022, eq. 5).

    s(t) = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho,  logsnr = -2 ln s(t)

    Their images are x0 + s eps; here they are alpha times that, so that alpha^2 + sigma^2 = 1. The clean image is at
    t = 0.
    """  # noqa: D403

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        """Set the ends.

        Args:
            sigma_min: smallest sigma/alpha of t > 0.
            sigma_max: sigma/alpha at t = 1.
            rho: exponent; larger gives more times to the clean end.

        Raises:
            ValueError: an option is out of range.
        """
        if not 0 < sigma_min < sigma_max < math.inf or not 0 < rho < math.inf:
            raise ValueError(
                f"sigma_min={sigma_min} must be positive and less than sigma_max={sigma_max}, and rho={rho} positive"
            )
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self._clean, self._noisy = sigma_min ** (1 / rho), sigma_max ** (1 / rho)

    @property
    def steps(self) -> None:
        """None: the schedule is continuous."""
        return None

    @property
    def first_time(self) -> float:
        """A time whose noise level is sigma_min to nine digits."""
        return 1e-10

    def logsnr(self, t: Tensor) -> Tensor:
        """-2 ln s(t); +inf at t = 0, the clean image."""
        t = t.to(torch.float64)
        value = -2 * self.rho * torch.log(self._clean + t.clamp(max=1) * (self._noisy - self._clean))
        return torch.where(t <= 0, math.inf, value)

    def time_from_logsnr(self, logsnr: Tensor) -> Tensor:
        """The inverse; beyond the ends the nearest end."""
        root = torch.exp(-logsnr.to(torch.float64) / (2 * self.rho))
        inside = ((root - self._clean) / (self._noisy - self._clean)).clamp(self.first_time, 1)
        return torch.where(torch.isposinf(logsnr), 0.0, inside)

    def time_from_uniform(self, u: Tensor) -> Tensor:
        """Times 1 - u, in (0, 1]."""
        return 1 - u.to(torch.float64)
