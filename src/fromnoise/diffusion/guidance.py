"""Denoisers that wrap denoisers: each takes a prediction and bends its x_0; no rule of the sampler knows of any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.schedule import Level


@dataclass(frozen=True)
class Clip:
    """Clip x_0 to the range of pixels at every step, as the code of Ho et al. 2020 does.

    Without it a drift of the image mean is never pulled back.
    """

    denoise: Denoise
    low: float = -1.0
    high: float = 1.0

    def __call__(
        self, x: Tensor, level: Level, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The clipped prediction."""
        told = self.denoise(x, level, cond, previous)
        return Prediction(told.x0.clamp(self.low, self.high), told.spread)


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance: x_0 = u + scale (c - u), c with and u without the condition.

    Ho and Salimans 2022, eq. 6, with scale = w + 1.

    Scale 1 is the conditional model, 0 the unconditional one, each by one plain call; else both go through one batched
    call.
    """

    denoise: Denoise
    scale: float

    def __call__(
        self, x: Tensor, level: Level, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction; ``cond`` None or all -1 leaves nothing to guide by."""
        if cond is None or self.scale == 1:
            return self.denoise(x, level, cond, previous)
        nothing = torch.full_like(cond, -1)
        if self.scale == 0:
            return self.denoise(x, level, nothing, previous)
        twice = torch.cat([previous, previous]) if previous is not None else None
        told = self.denoise(torch.cat([x, x]), level, torch.cat([cond, nothing]), twice)
        c, u = told.x0.chunk(2)
        return Prediction(u + self.scale * (c - u), told.spread.chunk(2)[0] if told.spread is not None else None)
