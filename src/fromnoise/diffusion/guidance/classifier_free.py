"""Classifier-free guidance: away from what a model draws when it is told nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction, null_condition
from fromnoise.diffusion.schedules import NoiseLevel


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """x_0 = u + scale (c - u), c with and u without the condition (Ho and Salimans 2022, eq. 6, with scale = w + 1).

    Scale 1 is the conditional model, 0 the unconditional one, each by one plain call; else both go through one batched
    call.

    Attributes:
        denoise: a model trained with and without its condition.
        scale: 1 is no guidance.
        rescale: share, 0 to 1, in which the contrast of each image is brought back to that of c: a large scale
            overexposes (Lin et al. 2023, eqs. 14 to 16; here on x_0, which every target has).
    """

    denoise: Denoise
    scale: float
    rescale: float = 0.0

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction; ``cond`` None, or one that tells nothing, leaves nothing to guide by."""
        if cond is None or self.scale == 1:
            return self.denoise(x, level, cond, previous)
        nothing = null_condition(cond)
        if self.scale == 0:
            return self.denoise(x, level, nothing, previous)
        twice = torch.cat([previous, previous]) if previous is not None else None
        prediction = self.denoise(torch.cat([x, x]), level, torch.cat([cond, nothing]), twice)
        c, u = prediction.x0.chunk(2)
        x0 = u + self.scale * (c - u)
        if self.rescale:
            x0 = x0 * (1 + self.rescale * (_contrast(c) / _contrast(x0) - 1))
        return Prediction(
            x0, prediction.variance_fraction.chunk(2)[0] if prediction.variance_fraction is not None else None
        )


@dataclass(frozen=True)
class Unconditional:
    """A model that is told nothing, whatever the loop says: for guidance that tells it in another way."""

    denoise: Denoise

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The prediction without ``cond``."""
        return self.denoise(x, level, None, previous)


def _contrast(x0: Tensor) -> Tensor:
    """Standard deviation of each image, (B, 1, ...); a flat image has next to none, but not 0."""
    return x0.flatten(1).std(1).clamp(min=1e-6).reshape(-1, *[1] * (x0.ndim - 1))
