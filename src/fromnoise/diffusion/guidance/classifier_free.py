"""Classifier-free guidance: extrapolate from the unconditional to the conditional prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction, null_condition
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("guidance", "classifier-free")
@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6, with scale = w + 1).

    x0_guided = x0_null + scale (x0_cond - x0_null)

    At scale 1 (the conditional model) and 0 (the unconditional model) the network is called once; otherwise both
    predictions are made in one call with a batch of 2B.

    Args:
        denoise: a model trained with and without its condition.
        scale: 1 is no guidance.
        rescale: from 0 to 1, how far the standard deviation of each guided image is brought back to that of x0_cond;
            a large scale raises the contrast (Lin et al. 2024, eqs. 14 to 16, applied to x_0).
    """

    denoise: Denoise
    scale: float
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale is {self.rescale:g}: use a number from 0 to 1")

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction; not guided where ``cond`` is None or the null condition."""
        if cond is None or self.scale == 1:
            return self.denoise(x, level, cond, previous)
        null = null_condition(cond)
        if self.scale == 0:
            return self.denoise(x, level, null, previous)
        twice = torch.cat([previous, previous]) if previous is not None else None
        prediction = self.denoise(torch.cat([x, x]), level, torch.cat([cond, null]), twice)
        c, u = prediction.x0.chunk(2)
        x0 = u + self.scale * (c - u)
        if self.rescale:
            x0 = x0 * (1 + self.rescale * (_contrast(c) / _contrast(x0) - 1))
        return Prediction(
            x0, prediction.variance_fraction.chunk(2)[0] if prediction.variance_fraction is not None else None
        )


@dataclass(frozen=True)
class Unconditional:
    """A model that ignores the condition: for guidance that uses the condition in another way, as a classifier does."""

    denoise: Denoise

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The prediction of ``denoise`` without ``cond``."""
        return self.denoise(x, level, None, previous)


def _contrast(x0: Tensor) -> Tensor:
    """Standard deviation of each image, (B, 1, ...), bounded away from 0 for constant images."""
    return x0.flatten(1).std(1).clamp(min=1e-6).reshape(-1, *[1] * (x0.ndim - 1))
