"""Networks of other programs whose clean images lie in another range than [-1, 1].

With y_0 = c + r x_0, c and r the middle and half the width of the range, the network's noisy image is

    y_t = a y_0 + s eps = k x_t + a c,   k^2 = (a r)^2 + s^2,   x_t = (a r / k) x_0 + (s / k) eps

so that it is a model of x_t whose SNR is r^2 times that of its own schedule (a, s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fromnoise.diffusion.schedules import BetaSchedule, NoiseLevel
from fromnoise.diffusion.targets import X0, Eps, Target, V
from fromnoise.registry import register

TARGETS: dict[str, type[Target]] = {"eps": Eps, "x0": X0, "v": V}
"""Targets of a network in its own range."""


@register("target", "value-range")
@dataclass(frozen=True)
class ValueRange(Target):
    """The target of a network whose clean images lie in [low, high]; the schedule is that of images in [-1, 1].

    Attributes:
        low: smallest pixel value.
        high: largest pixel value.
        target: of the network, in its own range: eps, x0 or v.
    """

    low: float = 0.0
    high: float = 1.0
    target: Literal["eps", "x0", "v"] = "eps"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: the range is empty or not finite, or there is no such target.
        """
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low={self.low} must be less than high={self.high}")
        if self.target not in TARGETS:
            raise ValueError(f"target={self.target!r} is not known; use {' or '.join(TARGETS)}")

    @property
    def _inner(self) -> Target:
        return TARGETS[self.target]()

    @property
    def middle(self) -> float:
        """Middle c of the range."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> float:
        """Half the width r of the range."""
        return (self.high - self.low) / 2

    def own_level(self, level: NoiseLevel) -> NoiseLevel:
        """The network's own level (a, s): log-SNR less 2 log r."""
        logsnr = level.logsnr - 2 * math.log(self.radius)
        return NoiseLevel(level.t, torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt(), logsnr)

    def scale_input(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """y_t = k x_t + a c."""  # noqa: D403
        own = self.own_level(level)
        k = ((own.alpha * self.radius) ** 2 + own.sigma**2).sqrt()
        return k.to(x) * x + (own.alpha * self.middle).to(x)

    def target_from(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """The network's target at y_0 = c + r x_0."""
        return self._inner.target_from(self.middle + self.radius * x0, eps, self.own_level(level))

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """(y_0 - c) / r."""
        y0 = self._inner.x0(self.scale_input(x, level), out, self.own_level(level))
        return (y0 - self.middle) / self.radius

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """r^2 times the weight of the network's target at its own level."""
        return self.radius**2 * self._inner.snr_weight(self.own_level(level))


def schedule_for_range(schedule: BetaSchedule, target: ValueRange) -> BetaSchedule:
    """The schedule of images in [-1, 1] that belongs to a network's own schedule: log-SNR plus 2 log r."""
    t = torch.arange(1, schedule.steps + 1, dtype=torch.float64) / schedule.steps
    log_a = torch.nn.functional.logsigmoid(schedule.logsnr(t) + 2 * math.log(target.radius))
    return BetaSchedule(-torch.expm1(torch.cat([log_a.new_zeros(1), log_a]).diff()))
