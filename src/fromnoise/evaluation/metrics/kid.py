"""Kernel distance between two sets of features (squared maximum mean discrepancy); on Inception features it is the KID.

All statistics are float64; pairs are taken in blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.feature_stats import FeatureStats, float64_features
from fromnoise.evaluation.metrics.metric import Metric, SampleComparison
from fromnoise.registry import register

_BLOCK = 1024  # rows of a block of pairs


@register("metric", "kernel")
class KernelDistance(Metric):
    """Unbiased squared MMD with the kernel (x.y/D + 1)^3 (Binkowski et al. 2018, eq. 4)."""

    key = "kernel"
    title = "kernel"
    better = "lower"
    resampled = "samples and real images"
    passes = 1.0

    def title_for(self, features: str) -> str:
        """KID on Inception features only."""
        return "KID" if features == "inception" else f"{self.title} ({features})"

    def estimate(self, comparison: SampleComparison) -> Estimate:
        """See ``kernel_distance``."""
        return comparison.reference.shared(_kernel_reference).distance(comparison.samples.features)

    def at_sample_size(self, estimate: Estimate, n: int) -> Estimate:
        """Unbiased, so the expected value does not depend on n."""
        return estimate


def _kernel_reference(stats: FeatureStats) -> KernelReference:
    return KernelReference(stats.shared(float64_features))


@dataclass(frozen=True)
class _KernelSums:
    """A kernel summed over pairs: sums of rows and of columns, and the sum of squares.

    ``within`` says that both vectors of a pair are of one set, in which case the pairs (i, i) are left out.
    """

    rows: Tensor
    columns: Tensor
    squares: float
    within: bool

    @property
    def total(self) -> float:
        return float(self.rows.sum())

    def centred_squares(self) -> float:
        """Mean square of the kernel minus its row and column means, over the pairs that were summed."""
        m, n = len(self.rows), len(self.columns)
        if self.within:
            means = self.rows / (m - 1)
            mean, square = float(means.mean()), float(means.square().sum())
            removed = 4 * (m - 1) * square - 2 * m * (m - 1) * mean**2  # 2 sum K_ij (a_i + a_j - c)
            kept = 2 * (m - 2) * square + (2 * m - 3 * (m - 1)) * m * mean**2  # sum (a_i + a_j - c)^2
            return max(0.0, self.squares - removed + kept) / (m * (m - 1))
        mean = self.total / (m * n)
        a = self.rows.div(n).square().mean() + self.columns.div(m).square().mean()
        return max(0.0, self.squares / (m * n) - float(a) + mean**2)


def _kernel_sums(x: Tensor, y: Tensor | None) -> _KernelSums:
    """Sums of (x.y/D + 1)^3 over all pairs; without y over the pairs of different rows of x."""
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
    return _KernelSums(torch.cat(rows), columns, squares, y is None)


@final
class KernelReference:
    """Real features with which several sets are compared; the sums over their own pairs are computed once."""

    def __init__(self, features: Tensor) -> None:
        """Compute the sums of real features (M, D).

        Raises:
            ValueError: fewer than 3 vectors.
        """
        if len(features) < 3:
            raise ValueError("a kernel distance needs at least 3 vectors of each set")
        self._features = features.double()
        self._sums = _kernel_sums(self._features, None)

    def distance(self, x: Tensor) -> Estimate:
        """See ``kernel_distance``."""
        x, y, yy = x.double(), self._features, self._sums
        m, n = len(x), len(y)
        if m < 3:
            raise ValueError("a kernel distance needs at least 3 vectors of each set")
        xx, xy = _kernel_sums(x, None), _kernel_sums(x, y)
        value = xx.total / (m * (m - 1)) + yy.total / (n * (n - 1)) - 2 * xy.total / (m * n)
        without_x = (xx.total - 2 * xx.rows) / ((m - 1) * (m - 2)) - 2 * (xy.total - xy.rows) / ((m - 1) * n)
        without_y = (yy.total - 2 * yy.rows) / ((n - 1) * (n - 2)) - 2 * (xy.total - xy.columns) / (m * (n - 1))
        jackknife = sum(float(w.var(correction=0)) * (len(w) - 1) for w in (without_x, without_y))
        second_order = (
            2 * xx.centred_squares() / (m * (m - 1))
            + 2 * yy.centred_squares() / (n * (n - 1))
            + 4 * xy.centred_squares() / (m * n)
        )
        return Estimate(value, math.sqrt(max(jackknife - second_order, second_order)), m)


def kernel_distance(x: Tensor, y: Tensor, limit: int = 10_000) -> Estimate:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y/D + 1)^3 (Binkowski et al. 2018, eq. 4).

    Values of different n compare, and a value may be negative where the sets are alike. The error is the jackknife's
    minus its second-order term, which the jackknife counts twice (Efron and Stein 1981, theorem 2): it holds for
    distant sets and for equal ones.

    Args:
        x: (N, D).
        y: (M, D).
        limit: number of vectors of each set that are used, the first ones; the cost is quadratic.

    Returns:
        The estimate; its n is that of x.

    Raises:
        ValueError: one set has fewer than 3 vectors.
    """
    return KernelReference(y[:limit]).distance(x[:limit])
