"""Whether samples are spread as the real images are: over classes or modes, and in brightness, contrast and colour."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fromnoise.evaluation.features.extractors import FeatureBatch, Features
from fromnoise.evaluation.metrics.frechet import Moments
from fromnoise.utils.kmeans import kmeans

_SURE = 4.0  # standard errors
_VISIBLE = 0.5  # of the deviation between real images: a careful eye sees it (Cohen 1988, section 2.2.3)
_END = 16  # levels that pass for black, or as far from the top for white, as in studio video (ITU-R BT.601)
_TIMES = 2.0  # by which a share must differ


# ---- classes and modes


class Modes(ABC):
    """Kinds of images.

    Attributes:
        names: of the kinds.
        what: what they are called.
    """

    names: tuple[str, ...]
    what: str

    @abstractmethod
    def of(self, seen: FeatureBatch) -> Tensor:
        """Which kind each image is, int64 (N,)."""


@final
class Classes(Modes):
    """The classes of the labels, as a classifier sees them."""

    what = "class"

    def __init__(self, names: tuple[str, ...]) -> None:
        """Take their names."""
        self.names = names

    def of(self, seen: FeatureBatch) -> Tensor:
        """See ``Modes``.

        Raises:
            ValueError: the features know no classes.
        """
        if seen.probabilities is None:
            raise ValueError("these features know no classes")
        return seen.probabilities.argmax(1)


@final
class Clusters(Modes):
    """Clusters of the real features by k-means, for images without labels (Richardson and Weiss 2018)."""

    what = "cluster"

    def __init__(self, features: Tensor, count: int | None = None) -> None:
        """Find them.

        Args:
            features: of real images, (N, D).
            count: how many; left out, one for 100 images, from 2 to 20.
        """
        count = count or max(2, min(20, len(features) // 100))
        self._centroids = kmeans(features.double(), min(count, len(features)), seed=0).centroids
        self.names = tuple(str(i) for i in range(len(self._centroids)))

    def of(self, seen: FeatureBatch) -> Tensor:
        """See ``Modes``."""
        return torch.cdist(seen.features.double(), self._centroids).argmin(1)


def modes(features: Features, real: FeatureBatch) -> Modes:
    """Classes where the features know them, else clusters of the real images."""
    return Classes(features.labels) if features.labels is not None else Clusters(real.features)


@dataclass(frozen=True)
class Share:
    """How often a kind of image was drawn.

    Attributes:
        name: of the kind.
        found: share of the samples.
        real: share of the real images.
        error: standard error of ``found``, were the samples spread as the real images are.
    """

    name: str
    found: float
    real: float
    error: float

    @property
    def verdict(self) -> str:
        """Missing, rare or frequent; "" where the samples could be spread as the real images are."""
        apart = (self.found - self.real) / self.error if self.error else 0.0
        if abs(apart) < _SURE:
            return ""
        if self.found * _TIMES < self.real:
            return "rare" if self.found else "missing"
        return "frequent" if self.found > self.real * _TIMES else ""


def shares(samples: Tensor, real: Tensor, names: tuple[str, ...]) -> list[Share]:
    """How often each kind was drawn.

    Args:
        samples: kinds of the samples, int64 (N,).
        real: kinds of the real images, int64 (M,).
        names: of the kinds.
    """
    found, expected = (torch.bincount(v, minlength=len(names)).double() / len(v) for v in (samples, real))
    rows = zip(names, found.tolist(), expected.tolist(), strict=True)
    n = 1 / (1 / len(samples) + 1 / len(real))
    return [Share(name, f, r, math.sqrt(r * (1 - r) / n)) for name, f, r in rows]


# ---- brightness, contrast, colour


def looks(images: Tensor) -> Tensor:
    """What an eye sees at once of each image, in levels of 0 to 255 and per cent.

    Args:
        images: uint8 (N, C, H, W).

    Returns:
        float64 (N, S): mean and deviation of each channel; with colour its strength (range over the first three
        channels, averaged over pixels); per cent of values within 16 levels of 0 or 255.
    """
    x = images.double().flatten(2)
    columns = [x.mean(2), x.std(2, correction=0)]
    if images.shape[1] >= 3:
        rgb = x[:, :3]
        columns.append((rgb.amax(1) - rgb.amin(1)).mean(1, keepdim=True))
    ends = (images <= _END) | (images >= 255 - _END)
    columns.append(100 * ends.flatten(1).double().mean(1, keepdim=True))
    return torch.cat(columns, 1)


def look_names(channels: int) -> list[str]:
    """What the columns of ``looks`` are."""
    which = [""] if channels == 1 else [f" of {c}" for c in ("red", "green", "blue")[: min(3, channels)]]
    which += [f" of channel {c}" for c in range(len(which), channels)]
    colour = ["strength of colour"] if channels >= 3 else []
    return [f"mean{w}" for w in which] + [f"contrast{w}" for w in which] + colour + ["per cent black or full"]


@dataclass(frozen=True)
class Shift:
    """How a look of samples differs from that of real images.

    Attributes:
        name: as ``look_names``.
        found: mean over the samples.
        real: mean over the real images.
        error: standard error of their difference.
        spread: deviation of it between real images.
    """

    name: str
    found: float
    real: float
    error: float
    spread: float

    @property
    def verdict(self) -> str:
        """Low or high; "" where the difference is not sure or would not be seen."""
        apart = self.found - self.real
        if abs(apart) <= max(_SURE * self.error, _VISIBLE * self.spread):
            return ""
        return "high" if apart > 0 else "low"


def shifts(samples: Moments, real: Moments, channels: int) -> list[Shift]:
    """Each look of samples beside that of real images.

    Args:
        samples: moments of ``looks``.
        real: the same of real images.
        channels: C.
    """
    a, b = samples.covariance.diagonal(), real.covariance.diagonal()
    error, spread = (a / samples.n + b / real.n).sqrt(), b.sqrt()
    columns = zip(
        look_names(channels), samples.mean.tolist(), real.mean.tolist(), error.tolist(), spread.tolist(), strict=True
    )
    return [Shift(*column) for column in columns]
