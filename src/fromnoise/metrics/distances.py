"""How far apart two sets of feature vectors are, each number with its n and its uncertainty.

Statistics are float64. Moments merge, so that sets need not be in memory and processes can share the work; kernel
and neighbour distances go over pairs in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import final

import torch
from torch import Tensor

_BLOCK = 1024  # rows of a block of pairs


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


# ---- the kernel distance


@dataclass(frozen=True)
class _Sums:
    """Of a kernel over pairs: row sums, column sums, and the sum of squares."""

    rows: Tensor
    columns: Tensor
    squares: float

    @property
    def total(self) -> float:
        return float(self.rows.sum())

    def centred_squares(self) -> float:
        """Mean square of the kernel less its row and column means."""
        m, n = len(self.rows), len(self.columns)
        mean = self.total / (m * n)
        a = self.rows.div(n).square().mean() + self.columns.div(m).square().mean()
        return max(0.0, self.squares / (m * n) - float(a) + mean**2)


def _kernel_sums(x: Tensor, y: Tensor | None) -> _Sums:
    """Of (x.y/D + 1)^3 over all pairs; without y over the pairs of different rows of x."""
    other = x if y is None else y
    rows, columns, squares = [], torch.zeros(len(other), dtype=torch.float64, device=x.device), 0.0
    for start in range(0, len(x), _BLOCK):
        block = (x[start : start + _BLOCK] @ other.T).div_(x.shape[1]).add_(1.0)
        block = block * block * block
        if y is None:
            block.diagonal(start).zero_()
        rows.append(block.sum(1))
        columns += block.sum(0)
        squares += float(block.square().sum())
    return _Sums(torch.cat(rows), columns, squares)


def kernel(x: Tensor, y: Tensor, limit: int = 10_000) -> Estimate:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y/D + 1)^3 (Binkowski et al. 2018, eq. 4; KID).

    Unbiased at any n, so values of different n compare; it may be below 0 where the sets are alike. The error is the
    jackknife's, less the part of second order, which the jackknife counts twice (Efron and Stein 1981, theorem 2):
    right both for sets far apart and for equal ones.

    Args:
        x: (N, D).
        y: (M, D).
        limit: vectors taken of each, the first ones; the cost is quadratic.

    Returns:
        The estimate; its n is that of x.

    Raises:
        ValueError: fewer than 3 vectors in one of them.
    """
    return Reference(y[:limit]).kernel(x[:limit])


def _kernel(x: Tensor, y: Tensor, yy: _Sums) -> Estimate:
    m, n = len(x), len(y)
    if min(m, n) < 3:
        raise ValueError("a kernel distance needs 3 vectors of each at least")
    xx, xy = _kernel_sums(x, None), _kernel_sums(x, y)
    value = xx.total / (m * (m - 1)) + yy.total / (n * (n - 1)) - 2 * xy.total / (m * n)
    without_x = (xx.total - 2 * xx.rows) / ((m - 1) * (m - 2)) - 2 * (xy.total - xy.rows) / ((m - 1) * n)
    without_y = (yy.total - 2 * yy.rows) / ((n - 1) * (n - 2)) - 2 * (xy.total - xy.columns) / (m * (n - 1))
    jackknife = sum(float(w.var(correction=0)) * (len(w) - 1) for w in (without_x, without_y))
    second = (
        2 * xx.centred_squares() / (m * (m - 1))
        + 2 * yy.centred_squares() / (n * (n - 1))
        + 4 * xy.centred_squares() / (m * n)
    )
    return Estimate(value, math.sqrt(max(jackknife - second, second)), m)


# ---- neighbours


@dataclass(frozen=True)
class Neighbourhoods:
    """How samples and real images lie among each other.

    Attributes:
        precision: share of samples inside some real image's neighbourhood (Kynkaanniemi et al. 2019, eq. 2).
        recall: share of real images inside some sample's neighbourhood (the same, with the roles changed).
        density: mean number of real neighbourhoods around a sample, over k (Naeem et al. 2020, eq. 4).
        coverage: share of real images whose neighbourhood holds a sample (Naeem et al. 2020, eq. 5).
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance from each vector to its k-th nearest other one."""
    if len(x) <= k:
        raise ValueError(f"neighbourhoods of {k} need more than {k} vectors")
    out = []
    for start in range(0, len(x), _BLOCK):
        apart = _apart(x[start : start + _BLOCK], x)
        apart.diagonal(start).fill_(math.inf)  # a vector is no neighbour of itself
        out.append(apart.kthvalue(k, dim=1).values)
    return torch.cat(out)


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances, (N, M)."""
    return torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")


def neighbourhoods(real: Tensor, samples: Tensor, k: int = 5, limit: int = 10_000) -> Neighbourhoods:
    """Precision, recall, density and coverage.

    Args:
        real: (N, D).
        samples: (M, D).
        k: a neighbourhood reaches to the k-th nearest other vector of the same set.
        limit: vectors taken of each, the first ones; the cost is quadratic.

    Returns:
        Each share with its binomial standard error, density with that of a mean.

    Raises:
        ValueError: not more than k vectors in one of them.
    """
    return Reference(real[:limit], k).neighbourhoods(samples[:limit])


def _neighbourhoods(real: Tensor, samples: Tensor, k: int, around_real: Tensor) -> Neighbourhoods:
    around_samples = _radii(samples, k)
    inside = torch.zeros(len(samples), dtype=torch.float64, device=real.device)
    recalled, covered = [], []
    for start in range(0, len(real), _BLOCK):
        apart = _apart(real[start : start + _BLOCK], samples)
        radii = around_real[start : start + _BLOCK]
        inside += (apart < radii[:, None]).sum(0)
        recalled.append((apart < around_samples).any(1))
        covered.append(apart.min(1).values < radii)
    return Neighbourhoods(
        share(inside > 0), share(torch.cat(recalled)), Estimate.of(inside / k), share(torch.cat(covered))
    )


@final
class Reference:
    """Real vectors that several sets are compared with: what depends on them alone is computed once."""

    def __init__(self, vectors: Tensor, k: int = 5) -> None:
        """Take vectors (N, D), and the k of neighbourhoods."""
        self.vectors, self.k = vectors.double(), k

    @cached_property
    def _sums(self) -> _Sums:
        return _kernel_sums(self.vectors, None)

    @cached_property
    def _around(self) -> Tensor:
        return _radii(self.vectors, self.k)

    def kernel(self, x: Tensor) -> Estimate:
        """See ``kernel``."""
        return _kernel(x.double(), self.vectors, self._sums)

    def neighbourhoods(self, samples: Tensor) -> Neighbourhoods:
        """See ``neighbourhoods``."""
        return _neighbourhoods(self.vectors, samples.double(), self.k, self._around)


# ---- shares


def share(hits: Tensor) -> Estimate:
    """Share of true ones, with its binomial standard error.

    Args:
        hits: bool (N,).
    """
    n = len(hits)
    p = float(hits.double().mean())
    return Estimate(p, math.sqrt(p * (1 - p) / n), n)


# ---- confidence and variety


@dataclass(frozen=True)
class Votes:
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
    def of(probabilities: Tensor) -> Votes:
        """Of probabilities (N, K)."""
        p = probabilities.double()
        return Votes(len(p), p.sum(0), float(torch.special.xlogy(p, p).sum()))

    def __add__(self, other: Votes) -> Votes:
        return Votes(self.n + other.n, self.classes + other.classes, self.certainty + other.certainty)

    @property
    def score(self) -> float:
        """Confidence and variety, exp E KL(p(class | image) || p(class)), from 1 to K."""
        marginal = self.classes / self.n
        return math.exp(self.certainty / self.n - float(torch.special.xlogy(marginal, marginal).sum()))


def score(parts: Sequence[Votes]) -> Estimate:
    """Mean score of random parts of the samples and its standard error (Salimans et al. 2016; they took ten).

    On the Inception network it is the Inception Score; on another it names that one.
    """
    values = Estimate.of(torch.tensor([p.score for p in parts], dtype=torch.float64))
    return Estimate(values.value, values.error, sum(p.n for p in parts))
