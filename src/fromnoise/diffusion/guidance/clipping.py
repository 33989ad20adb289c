"""Clipping: keep the estimate of x_0 in the range of pixel values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.schedules import NoiseLevel


@dataclass(frozen=True)
class Clip:
    """Clip x_0 to [low, high] at every step, as the code of Ho et al. 2020 does (``clip_denoised``).

    Args:
        denoise: the model.
        low: smallest pixel value.
        high: largest pixel value.
    """

    denoise: Denoise
    low: float = -1.0
    high: float = 1.0

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The prediction with x_0 clipped; arguments as of ``Denoiser.forward``."""
        prediction = self.denoise(x, level, cond, previous)
        return Prediction(prediction.x0.clamp(self.low, self.high), prediction.variance_fraction)


@dataclass(frozen=True)
class Threshold:
    """Dynamic thresholding: clip x_0 to [-s, s] and divide by s (Saharia et al. 2022, "Imagen", sec. 2.3).

    s is the larger of 1 and a quantile of the image's |x_0|. When strong guidance pushes many pixels out of range, this
    rescales the whole image where ``Clip`` would saturate these pixels.

    Args:
        denoise: the model.
        quantile: of |x_0|, per image, in (0, 1].
    """

    denoise: Denoise
    quantile: float = 0.995

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The prediction with x_0 in [-1, 1]; arguments as of ``Denoiser.forward``."""
        prediction = self.denoise(x, level, cond, previous)
        magnitude = prediction.x0.abs().flatten(1)
        s = torch.quantile(magnitude.to(torch.promote_types(magnitude.dtype, torch.float32)), self.quantile, dim=1)
        s = s.clamp(min=1).to(prediction.x0.dtype).reshape(-1, *[1] * (prediction.x0.ndim - 1))
        return Prediction(prediction.x0.clamp(-s, s) / s, prediction.variance_fraction)
