"""How far apart two sets of feature vectors are by their sums, each number with its n and its uncertainty.

Statistics are float64. Sums merge, so that sets need not be in memory and processes can share the work; what needs
pairs of vectors is in ``pairs``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Attributes:
        value: the number.
        error: its standard error, 0 if nothing is uncertain; nan if it could not be estimated.
        n: samples that it was measured on.
    """

    value: float
    error: float
    n: int

    @staticmethod
    def of(values: Tensor) -> Estimate:
        """Mean of numbers (N,) and its standard error; that of a single one is unknown, nan."""
        values, n = values.double(), len(values)
        error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
        return Estimate(float(values.mean()), error, n)

    def json(self) -> dict[str, float | int | None]:
        """Value, error and n; what is not a number is null."""
        plain = {"value": self.value, "error": self.error, "n": self.n}
        return {k: v if math.isfinite(v) else None for k, v in plain.items()}


def share(hits: Tensor) -> Estimate:
    """Share of true ones, with its binomial standard error.

    Args:
        hits: bool (N,).
    """
    n = len(hits)
    p = float(hits.double().mean())
    return Estimate(p, math.sqrt(p * (1 - p) / n), n)


# ---- moments and the Frechet distance


@dataclass(frozen=True)
class Moments:
    """Number, mean and scatter of vectors; the sum of two is that of both sets together (Chan et al. 1979, eq. 2.1).

    Attributes:
        n: how many.
        mean: float64 (D,).
        scatter: sum of (x - mean)(x - mean)^T, float64 (D, D).
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(x: Tensor) -> Moments:
        """Of vectors (N, D), N at least 1."""
        x = x.double()
        mean = x.mean(0)
        centred = x - mean
        return Moments(len(x), mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.n / n)
        scatter = self.scatter + other.scatter + torch.outer(apart, apart) * (self.n * other.n / n)
        return Moments(n, mean, scatter)

    @property
    def covariance(self) -> Tensor:
        """Unbiased, (D, D).

        Raises:
            ValueError: of fewer than two vectors.
        """
        if self.n < 2:
            raise ValueError("the covariance of fewer than two vectors is unknown")
        return self.scatter / (self.n - 1)


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of the two Gaussians with these moments (Dowson and Landau 1982).

    ``|m_a - m_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2))``. On Inception features it is the FID (Heusel et al.
    2017, eq. 6). It grows with the features' scale and, like 1/n, with fewer samples: compare at equal n only.

    Args:
        a: moments of one set.
        b: moments of the other.
    """
    return _frechet(a, b, _root(b.covariance))


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _frechet(a: Moments, b: Moments, root_b: Tensor) -> float:
    overlap = torch.linalg.eigvalsh(root_b @ a.covariance @ root_b).clamp(min=0).sqrt().sum()
    traces = torch.trace(a.covariance) + torch.trace(b.covariance)
    return float((a.mean - b.mean).square().sum() + traces - 2 * overlap)


@dataclass(frozen=True)
class Frechet(Estimate):
    """A Frechet distance.

    Attributes:
        limit: the distance extrapolated to endless samples, by the bias of order 1/n that the jackknife shows
            (Quenouille 1956; of the same purpose as the FID-infinity of Chong and Forsyth 2020).
    """

    limit: float

    def at(self, n: int) -> Frechet:
        """What it would be of another number of samples, by the same law."""
        return Frechet(self.limit + (self.value - self.limit) * self.n / n, self.error, n, self.limit)


def frechet_from(parts: Sequence[Moments], reference: Moments) -> Frechet:
    """Frechet distance of samples that came in random parts, with the delete-a-group jackknife's error.

    Args:
        parts: moments of disjoint parts of the samples, two at least and of nearly equal size.
        reference: moments of the real images, taken as exact.

    Raises:
        ValueError: fewer than two parts.
    """
    if len(parts) < 2:
        raise ValueError("the error of a Frechet distance needs two parts of samples at least")
    root, groups = _root(reference.covariance), len(parts)
    whole = reduce(Moments.__add__, parts)
    value = _frechet(whole, reference, root)
    without = [
        _frechet(reduce(Moments.__add__, (p for j, p in enumerate(parts) if j != i)), reference, root)
        for i in range(groups)
    ]
    left_out = torch.tensor(without, dtype=torch.float64)
    error = math.sqrt((groups - 1) / groups * float((left_out - left_out.mean()).square().sum()))
    limit = groups * value - (groups - 1) * float(left_out.mean())
    return Frechet(value, error, whole.n, limit)


def split(x: Tensor, parts: int = 20) -> list[Moments]:
    """Moments of every ``parts``-th vector, for ``frechet_from``.

    Args:
        x: (N, D).
        parts: how many, at most; each gets two vectors at least.
    """
    parts = max(1, min(parts, len(x) // 2))
    return [Moments.of(x[i::parts]) for i in range(parts)]


# ---- confidence and variety


@dataclass(frozen=True)
class ClassVotes:
    """Sums over a classifier's probabilities; the sum of two is that of both sets together.

    Attributes:
        n: images.
        classes: sum of the probabilities, float64 (K,).
        certainty: sum of ``p log p`` over images and classes.
    """

    n: int
    classes: Tensor
    certainty: float

    @staticmethod
    def of(probabilities: Tensor) -> ClassVotes:
        """Of probabilities (N, K)."""
        p = probabilities.double()
        return ClassVotes(len(p), p.sum(0), float(torch.special.xlogy(p, p).sum()))

    def __add__(self, other: ClassVotes) -> ClassVotes:
        return ClassVotes(self.n + other.n, self.classes + other.classes, self.certainty + other.certainty)

    @property
    def score(self) -> float:
        """Confidence and variety, exp E KL(p(class | image) || p(class)), from 1 to K."""
        marginal = self.classes / self.n
        return math.exp(self.certainty / self.n - float(torch.special.xlogy(marginal, marginal).sum()))


def score(parts: Sequence[ClassVotes]) -> Estimate:
    """Mean score of random parts of the samples and its standard error (Salimans et al. 2016; they took ten).

    On the Inception network it is the Inception Score; on another it names that one.
    """
    values = Estimate.of(torch.tensor([p.score for p in parts], dtype=torch.float64))
    return Estimate(values.value, values.error, sum(p.n for p in parts))
