"""Statistics that merge: those of two sets add up to those of their union, so that no set has to be in memory.

All sums are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter matrix of vectors (merged by Chan et al. 1979, eq. 2.1).

    Attributes:
        n: number of vectors.
        mean: float64 (D,).
        scatter: sum of (x - mean)(x - mean)^T, float64 (D, D).
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(x: Tensor) -> Moments:
        """Moments of vectors (N, D), N at least 1."""
        x = x.double()
        mean = x.mean(0)
        centred = x - mean
        return Moments(len(x), mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.n / n)
        scatter = self.scatter + other.scatter + torch.outer(difference, difference) * (self.n * other.n / n)
        return Moments(n, mean, scatter)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance matrix, (D, D).

        Raises:
            ValueError: there are fewer than two vectors.
        """
        if self.n < 2:
            raise ValueError("the covariance of fewer than two vectors is undefined")
        return self.scatter / (self.n - 1)


def split_moments(x: Tensor, parts: int = 20) -> list[Moments]:
    """Moments of disjoint subsets, the i-th of which holds every ``parts``-th vector from the i-th on.

    Args:
        x: (N, D).
        parts: maximal number of subsets; each has at least two vectors.
    """
    parts = max(1, min(parts, len(x) // 2))
    return [Moments.of(x[i::parts]) for i in range(parts)]


@dataclass(frozen=True)
class PredictionSums:
    """Sums over a classifier's predictions p(class | image).

    Attributes:
        n: number of images.
        probabilities: sum of p over the images, float64 (K,).
        negative_entropy: sum of ``p log p`` over images and classes.
    """

    n: int
    probabilities: Tensor
    negative_entropy: float

    @staticmethod
    def of(probabilities: Tensor) -> PredictionSums:
        """Sums of probabilities (N, K)."""
        p = probabilities.double()
        return PredictionSums(len(p), p.sum(0), float(torch.special.xlogy(p, p).sum()))

    def __add__(self, other: PredictionSums) -> PredictionSums:
        return PredictionSums(
            self.n + other.n,
            self.probabilities + other.probabilities,
            self.negative_entropy + other.negative_entropy,
        )

    @property
    def inception_score(self) -> float:
        """Exp E KL(p(class | image) || p(class)), between 1 and K (Salimans et al. 2016)."""
        marginal = self.probabilities / self.n
        return math.exp(self.negative_entropy / self.n - float(torch.special.xlogy(marginal, marginal).sum()))
