"""Weights of the loss over the noise levels, as weights of the squared error in the network's target.

A weight w_x0 of the error in x_0 becomes w_x0 / snr_weight(target), so a weighting means the same for every target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.diffusion.targets import Target
from fromnoise.registry import register


class Weighting(ABC):
    """Weight of the loss at a noise level."""

    @abstractmethod
    def weight(self, level: NoiseLevel, target: Target) -> Tensor:
        """Weight of the squared error in the target, shaped as ``level.alpha``."""


@register("weighting", "constant")
class ConstantWeighting(Weighting):
    """1: L_simple for target eps (Ho et al. 2020, eq. 14)."""

    def weight(self, level: NoiseLevel, target: Target) -> Tensor:
        """1."""
        return level.alpha.new_ones(level.alpha.shape)


@register("weighting", "snr")
class SNRWeighting(Weighting):
    """SNR on the error in x_0, whatever the target: 1 for eps, SNR for x0, SNR/(SNR + 1) for v.

    The weighting of denoising-diffusion-pytorch without its clamp; min-snr with an infinite gamma.
    """

    def weight(self, level: NoiseLevel, target: Target) -> Tensor:
        """SNR / snr_weight."""
        return level.snr / target.snr_weight(level)


@register("weighting", "min-snr")
@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, gamma) on the error in x_0, whatever the target (Hang et al. 2023, eq. 9).

    Attributes:
        gamma: largest weight of the error in x_0.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        """Check gamma.

        Raises:
            ValueError: it is not positive.
        """
        if not self.gamma > 0:
            raise ValueError(f"gamma={self.gamma} must be positive")

    def weight(self, level: NoiseLevel, target: Target) -> Tensor:
        """min(SNR, gamma) / snr_weight."""
        return level.snr.clamp(max=self.gamma) / target.snr_weight(level)


@register("weighting", "p2")
@dataclass(frozen=True)
class P2(Weighting):
    """1/(k + SNR)^gamma on the error in eps, whatever the target (Choi et al. 2022, eq. 8).

    Attributes:
        k: added to the SNR.
        gamma: exponent.
    """

    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        """Check the constants.

        Raises:
            ValueError: one is not positive.
        """
        if not (self.k > 0 and self.gamma > 0):
            raise ValueError(f"k={self.k} and gamma={self.gamma} must be positive")

    def weight(self, level: NoiseLevel, target: Target) -> Tensor:
        """SNR / (k + SNR)^gamma / snr_weight."""
        return level.snr / (self.k + level.snr) ** self.gamma / target.snr_weight(level)
