"""Precision, recall, density and coverage: how samples and real images lie within each other's manifold.

The manifold of a set is the union of the balls around its vectors that reach to their k-th nearest neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fromnoise.evaluation.estimate import Estimate, proportion
from fromnoise.evaluation.feature_stats import FeatureStats, float64_features
from fromnoise.evaluation.metrics.metric import Metric, SampleComparison
from fromnoise.evaluation.metrics.prdc_errors import CoverageError, RecallError
from fromnoise.registry import register

_BLOCK = 1024  # rows of a block of pairs


@final
class Manifold:
    """A set of vectors, each with the distance to its k-th nearest neighbour within the set."""

    def __init__(self, vectors: Tensor, k: int = 5) -> None:
        """Find the radii.

        Args:
            vectors: (N, D).
            k: rank of the neighbour to which a ball reaches.

        Raises:
            ValueError: not more than k vectors.
        """
        self.vectors, self.k = vectors.double(), k
        self.radii = _radii(self.vectors, k)


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance from each vector to its k-th nearest other one."""
    if len(x) <= k:
        raise ValueError(f"k = {k} nearest neighbours need more than {k} vectors")
    out = []
    for start in range(0, len(x), _BLOCK):
        distances = _distances(x[start : start + _BLOCK], x)
        distances.diagonal(start).fill_(math.inf)  # a vector is not its own neighbour
        out.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(out)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances, (N, M)."""
    return torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")


@dataclass(frozen=True)
class PRDC:
    """Precision, recall, density and coverage.

    Attributes:
        precision: fraction of samples in the real manifold (Kynkaanniemi et al. 2019, eq. 2).
        recall: fraction of real images in the samples' manifold (Kynkaanniemi et al. 2019, eq. 2).
        density: mean number of real balls that hold a sample, divided by k (Naeem et al. 2020, eq. 4).
        coverage: fraction of real balls that hold a sample (Naeem et al. 2020, eq. 5).
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def compare_manifolds(real: Manifold, samples: Manifold, strata: Tensor | None = None) -> PRDC:
    """Precision, recall, density and coverage of two manifolds with the same k.

    Args:
        real: manifold of the real images.
        samples: manifold of the samples.
        strata: of the samples, as of ``standard_error``.

    Returns:
        Values with their standard errors over sets of samples, the real images fixed: precision and density are means
        over the samples; for recall and coverage see ``prdc_errors``.
    """
    inside = torch.zeros(len(samples.vectors), dtype=torch.float64, device=real.vectors.device)
    recalled, covered = [], []
    coverage_error = CoverageError(len(samples.vectors), strata)
    recall_error = RecallError(samples.vectors, samples.k, strata)
    for start in range(0, len(real.vectors), _BLOCK):
        distances = _distances(real.vectors[start : start + _BLOCK], samples.vectors)
        radii = real.radii[start : start + _BLOCK]
        holds = distances < radii[:, None]
        coverage_error.add_reference(holds)
        recall_error.add_reference(distances)
        inside += holds.sum(0)
        recalled.append((distances < samples.radii).any(1))
        covered.append(distances.min(1).values < radii)
    n = len(samples.vectors)
    return PRDC(
        proportion(inside > 0, strata),
        Estimate(float(torch.cat(recalled).double().mean()), recall_error.estimate(), n),
        Estimate.mean_of(inside / real.k, strata),
        Estimate(float(torch.cat(covered).double().mean()), coverage_error.estimate(), n),
    )


def prdc(real: Tensor, samples: Tensor, k: int = 5, limit: int = 10_000) -> PRDC:
    """Precision, recall, density and coverage of samples.

    Args:
        real: (N, D).
        samples: (M, D).
        k: as ``Manifold`` takes it.
        limit: number of vectors of each set that are used, the first ones; the cost is quadratic.

    Raises:
        ValueError: one set has not more than k vectors.
    """
    return compare_manifolds(Manifold(real[:limit], k), Manifold(samples[:limit], k))


# ---- as metrics


def _manifold(stats: FeatureStats) -> Manifold:
    return Manifold(stats.shared(float64_features))


def _prdc(comparison: SampleComparison) -> PRDC:
    samples = comparison.samples
    return compare_manifolds(comparison.reference.shared(_manifold), Manifold(samples.features), samples.strata)


@register("metric", "precision")
class Precision(Metric):
    """Fraction of samples in the manifold of the real images (Kynkaanniemi et al. 2019, eq. 2)."""

    key = title = "precision"
    better = "higher"
    passes = 1.0  # shared by the four

    def estimate(self, comparison: SampleComparison) -> Estimate:
        """See ``PRDC``."""
        return comparison.shared(_prdc).precision


@register("metric", "recall")
class Recall(Metric):
    """Fraction of real images in the manifold of the samples (Kynkaanniemi et al. 2019, eq. 2)."""

    key = title = "recall"
    better = "higher"

    def estimate(self, comparison: SampleComparison) -> Estimate:
        """See ``PRDC``."""
        return comparison.shared(_prdc).recall


@register("metric", "density")
class Density(Metric):
    """Mean number of balls around real images that hold a sample, divided by k (Naeem et al. 2020, eq. 4)."""

    key = title = "density"
    better = "higher"

    def estimate(self, comparison: SampleComparison) -> Estimate:
        """See ``PRDC``."""
        return comparison.shared(_prdc).density


@register("metric", "coverage")
class Coverage(Metric):
    """Fraction of balls around real images that hold a sample (Naeem et al. 2020, eq. 5)."""

    key = title = "coverage"
    better = "higher"

    def estimate(self, comparison: SampleComparison) -> Estimate:
        """See ``PRDC``."""
        return comparison.shared(_prdc).coverage
