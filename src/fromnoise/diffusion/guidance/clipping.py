"""Keep x_0 within the range of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.schedules import NoiseLevel


@dataclass(frozen=True)
class Clip:
    """Clip x_0 to the range of pixels at every step, as the code of Ho et al. 2020 does.

    Without it a drift of the image mean is never pulled back.
    """

    denoise: Denoise
    low: float = -1.0
    high: float = 1.0

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The clipped prediction."""
        prediction = self.denoise(x, level, cond, previous)
        return Prediction(prediction.x0.clamp(self.low, self.high), prediction.variance_fraction)


@dataclass(frozen=True)
class Threshold:
    """Dynamic thresholding: x_0 is clipped to [-s, s] and divided by s (Saharia et al. 2022, "Imagen", sec. 2.3).

    s is the ``share`` quantile of an image's own |x_0|, at least 1. Where strong guidance pushes many pixels out of
    range, all are pulled in, instead of the outer ones being flattened.
    """

    denoise: Denoise
    share: float = 0.995

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The prediction in [-1, 1]."""
        prediction = self.denoise(x, level, cond, previous)
        sizes = prediction.x0.abs().flatten(1)
        s = torch.quantile(sizes.to(torch.promote_types(sizes.dtype, torch.float32)), self.share, dim=1)
        s = s.clamp(min=1).to(prediction.x0.dtype).reshape(-1, *[1] * (prediction.x0.ndim - 1))
        return Prediction(prediction.x0.clamp(-s, s) / s, prediction.variance_fraction)
