"""Frechet distance between the Gaussian fits of two sets of features; on Inception features it is the FID."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from fromnoise.evaluation.estimate import Estimate, ExtrapolatedEstimate
from fromnoise.evaluation.metrics.metric import Metric, SampleComparison
from fromnoise.evaluation.statistics import Moments
from fromnoise.registry import register


@register("metric", "frechet")
class FrechetDistance(Metric):
    """Squared Frechet distance of features (Heusel et al. 2017, eq. 6)."""

    key = "frechet"
    title = "Frechet"
    better = "lower"

    def title_for(self, features: str) -> str:
        """FID on Inception features only."""
        return "FID" if features == "inception" else f"{self.title} ({features})"

    def estimate(self, comparison: SampleComparison) -> ExtrapolatedEstimate:
        """See ``jackknifed_frechet``."""
        return jackknifed_frechet(comparison.samples.moment_parts, comparison.reference.moments)

    def at_sample_size(self, estimate: Estimate, n: int) -> Estimate | None:
        """The bias is of order 1/n, so the value at another n is known."""
        return estimate if estimate.n == n or not isinstance(estimate, ExtrapolatedEstimate) else estimate.at(n)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of the two Gaussians with these moments (Dowson and Landau 1982).

    ``|m_a - m_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2))``. It scales with the features and is biased upwards by a
    term of order 1/n: compare values of equal n only.

    Args:
        a: moments of one set.
        b: moments of the other.
    """
    return _frechet(a, b, _square_root(b.covariance))


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _frechet(a: Moments, b: Moments, root_b: Tensor) -> float:
    overlap = torch.linalg.eigvalsh(root_b @ a.covariance @ root_b).clamp(min=0).sqrt().sum()
    traces = torch.trace(a.covariance) + torch.trace(b.covariance)
    return float((a.mean - b.mean).square().sum() + traces - 2 * overlap)


def jackknifed_frechet(parts: Sequence[Moments], reference: Moments) -> ExtrapolatedEstimate:
    """Frechet distance of samples, with the standard error and the limit n -> infinity of a delete-a-group jackknife.

    Args:
        parts: moments of at least two disjoint random parts of the samples, of nearly equal size.
        reference: moments of the real images, taken as exact.

    Returns:
        The estimate; its limit removes the bias of order 1/n (Quenouille 1956; FID-infinity of Chong and Forsyth 2020
        serves the same purpose).

    Raises:
        ValueError: fewer than two parts.
    """
    if len(parts) < 2:
        raise ValueError("the error of a Frechet distance needs at least two parts of the samples")
    root, groups = _square_root(reference.covariance), len(parts)
    whole = reduce(Moments.__add__, parts)
    value = _frechet(whole, reference, root)
    without = [
        _frechet(reduce(Moments.__add__, (p for j, p in enumerate(parts) if j != i)), reference, root)
        for i in range(groups)
    ]
    left_out = torch.tensor(without, dtype=torch.float64)
    error = math.sqrt((groups - 1) / groups * float((left_out - left_out.mean()).square().sum()))
    limit = groups * value - (groups - 1) * float(left_out.mean())
    return ExtrapolatedEstimate(value, error, whole.n, limit)
