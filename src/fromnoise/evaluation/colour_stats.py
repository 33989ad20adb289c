"""Brightness, contrast and colour of samples beside those of real images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.evaluation.statistics import Moments

_SIGNIFICANT = 4.0  # standard errors
_VISIBLE = 0.5  # standard deviations between real images: a medium effect (Cohen 1988, section 2.2.3)
_CLIPPED = 16  # distance to 0 or 255 that counts as black or white, as in studio video (ITU-R BT.601)


def colour_statistics(images: Tensor) -> Tensor:
    """Mean, contrast, colourfulness and clipping of each image, on 0 to 255 and in per cent.

    Args:
        images: uint8 (N, C, H, W).

    Returns:
        float64 (N, S), S as of ``colour_statistic_names``: mean and standard deviation of each channel; with at least
        three channels the colourfulness (range over the first three channels, averaged over the pixels); per cent of
        values within 16 of 0 or 255.
    """
    x = images.double().flatten(2)
    columns = [x.mean(2), x.std(2, correction=0)]
    if images.shape[1] >= 3:
        rgb = x[:, :3]
        columns.append((rgb.amax(1) - rgb.amin(1)).mean(1, keepdim=True))
    clipped = (images <= _CLIPPED) | (images >= 255 - _CLIPPED)
    columns.append(100 * clipped.flatten(1).double().mean(1, keepdim=True))
    return torch.cat(columns, 1)


def colour_statistic_names(channels: int) -> list[str]:
    """Names of the columns of ``colour_statistics``."""
    suffixes = [""] if channels == 1 else [f" of {c}" for c in ("red", "green", "blue")[: min(3, channels)]]
    suffixes += [f" of channel {c}" for c in range(len(suffixes), channels)]
    colour = ["colourfulness"] if channels >= 3 else []
    return [f"mean{s}" for s in suffixes] + [f"contrast{s}" for s in suffixes] + colour + ["per cent black or white"]


@dataclass(frozen=True)
class ColourShift:
    """A colour statistic of samples beside that of real images.

    Attributes:
        name: as of ``colour_statistic_names``.
        samples: mean over the samples.
        real: mean over the real images.
        error: standard error of the difference.
        real_std: standard deviation between real images.
    """

    name: str
    samples: float
    real: float
    error: float
    real_std: float

    @property
    def direction(self) -> str:
        """Either "high" or "low"; "" if the difference is not significant or too small to be seen."""
        difference = self.samples - self.real
        if abs(difference) <= max(_SIGNIFICANT * self.error, _VISIBLE * self.real_std):
            return ""
        return "high" if difference > 0 else "low"


def colour_shifts(samples: Moments, real: Moments, channels: int) -> list[ColourShift]:
    """Every colour statistic of samples beside that of real images.

    Args:
        samples: moments of ``colour_statistics``.
        real: the same of real images.
        channels: C.
    """
    a, b = samples.covariance.diagonal(), real.covariance.diagonal()
    error, real_std = (a / samples.n + b / real.n).sqrt(), b.sqrt()
    columns = zip(
        colour_statistic_names(channels),
        samples.mean.tolist(),
        real.mean.tolist(),
        error.tolist(),
        real_std.tolist(),
        strict=True,
    )
    return [ColourShift(*column) for column in columns]
