"""The one face of every model: noisy image and level in, clean image out.

A network is any ``nn.Module(x, clock, cond)``; what its output means (``Target``) and what it sees as time (``NoiseConditioning``)
are said here once, so that rules, guidance and bounds only ever meet ``Prediction.x0``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.diffusion.targets import Target


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of a noisy image.

    Attributes:
        x0: estimate of E[x_0 | x_t], (B, C, H, W).
        spread: learned share f in [0, 1] of the log variance between small and large, shaped as ``x0``; None if fixed.
    """

    x0: Tensor
    variance_fraction: Tensor | None = None


Denoise = Callable[[Tensor, NoiseLevel, Tensor | None, Tensor | None], Prediction]
"""``denoise(x, level, cond, previous)``.

What a ``Denoiser``, a wrapper of one (``guidance.py``) and an exact one (``mixture.py``) are.
"""


def null_condition(cond: Tensor) -> Tensor:
    """The condition that tells nothing, shaped as ``cond``: -1 in place of classes, NaN in place of attributes."""
    return torch.full_like(cond, torch.nan if cond.is_floating_point() else -1)


class NoiseConditioning(ABC):
    """What the network sees as time."""

    @abstractmethod
    def read(self, level: NoiseLevel) -> Tensor:
        """The clock at ``level``, float64, shape of ``level.t``."""


class TimestepConditioning(NoiseConditioning):
    """The step as the original numbers it: 0 for k = 1 up to T - 1."""

    def __init__(self, steps: int) -> None:
        """Count ``steps`` steps between t = 0 and t = 1."""
        self.steps = steps

    def read(self, level: NoiseLevel) -> Tensor:
        """T t - 1."""
        return level.t * self.steps - 1


class Denoiser(nn.Module):
    """A network, a target and a clock: ``denoiser(x, level, cond, previous) -> Prediction``.

    Final: wrap it, do not override it.
    """

    pseudo_labels: Any

    def __init__(
        self,
        net: nn.Module,
        target: Target,
        clock: NoiseConditioning,
        *,
        self_conditioning: bool = False,
        learned_variance: bool = False,
        pseudo_labels: nn.Module | None = None,
    ) -> None:
        """Join the parts.

        Args:
            net: called as ``net(x, clock (B,), cond)``; with self-conditioning x has 2C channels, with learned spread
                the output has.
            target: what the first C output channels are.
            clock: what the network sees as time.
            self_conditioning: the network also sees the previous estimate of x_0, clipped to the range of pixels, or
                zeros (Chen et al. 2022, "Analog bits").
            learned_spread: the last C output channels v in [-1, 1] give f = (v + 1)/2 (Nichol and Dhariwal 2021,
                eq. 15).
            centres: of the clusters that ``cond`` tells, kept with the weights.
        """
        super().__init__()
        self.net, self.target, self.clock, self.pseudo_labels = net, target, clock, pseudo_labels
        self.self_conditioning, self.learned_variance = self_conditioning, learned_variance

    def output(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The network's estimate of its target, and the spread if it learns one.

        Both (B, C, H, W) in the dtype of ``x``.
        """
        seen = self.target.scale_input(x, level)
        if self.self_conditioning:
            seen = torch.cat([seen, torch.zeros_like(x) if previous is None else previous.clamp(-1, 1)], dim=1)
        clock = self.clock.read(level).to(x.device, torch.float32, non_blocking=True).expand(len(x))
        out = self.net(seen, clock, cond).to(x.dtype)
        if not self.learned_variance:
            return out, None
        out, variance_fraction = out.chunk(2, dim=1)
        return out, (variance_fraction + 1) / 2

    def forward(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """Estimate the clean image.

        Args:
            x: noisy images (B, C, H, W).
            level: where they are on the schedule.
            cond: what the model is told, (B,) class indices, -1 for nothing, or None.
            previous: an earlier estimate of x_0, used if the model conditions on itself.
        """
        out, variance_fraction = self.output(x, level, cond, previous)
        return Prediction(self.target.x0(x, out, level), variance_fraction)
