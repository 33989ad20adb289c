"""How far apart two sets of feature vectors are by all pairs of them, in blocks: kernel distance and neighbourhoods.

Statistics are float64, and each number comes with its n and its uncertainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from fromnoise.evaluation.metrics.frechet import Estimate, share

_BLOCK = 1024  # rows of a block of pairs


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
class Manifold:
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


def neighbourhoods(real: Tensor, samples: Tensor, k: int = 5, limit: int = 10_000) -> Manifold:
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


def _neighbourhoods(real: Tensor, samples: Tensor, k: int, around_real: Tensor) -> Manifold:
    around_samples = _radii(samples, k)
    inside = torch.zeros(len(samples), dtype=torch.float64, device=real.device)
    recalled, covered = [], []
    for start in range(0, len(real), _BLOCK):
        apart = _apart(real[start : start + _BLOCK], samples)
        radii = around_real[start : start + _BLOCK]
        inside += (apart < radii[:, None]).sum(0)
        recalled.append((apart < around_samples).any(1))
        covered.append(apart.min(1).values < radii)
    return Manifold(share(inside > 0), share(torch.cat(recalled)), Estimate.of(inside / k), share(torch.cat(covered)))


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

    def neighbourhoods(self, samples: Tensor) -> Manifold:
        """See ``neighbourhoods``."""
        return _neighbourhoods(self.vectors, samples.double(), self.k, self._around)
