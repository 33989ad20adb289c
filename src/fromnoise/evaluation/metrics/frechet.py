"""Frechet distance between the Gaussian fits of two sets of features; on Inception features it is the FID."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from fromnoise.evaluation.estimate import Estimate, ExtrapolatedEstimate, standard_error
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
        """Value and limit by ``jackknifed_frechet``, the error by ``frechet_error``."""
        samples, reference = comparison.samples, comparison.reference.moments
        found = jackknifed_frechet(samples.moment_parts, reference)
        error = frechet_error(samples.features, samples.moments, reference, samples.strata)
        return replace(found, error=error)

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


def frechet_error(features: Tensor, samples: Moments, reference: Moments, strata: Tensor | None = None) -> float:
    """Standard error of a Frechet distance over sets of samples; the real images are fixed.

    The first-order term is the standard error of the mean of the influence function (Hampel 1974)

        IF(x) = 2 (x - m_a).(m_a - m_b) + (x - m_a)^T M (x - m_a),    M = I - B^(1/2) (B^(1/2) A B^(1/2))^(-1/2) B^(1/2)

    Near-equal distributions leave the second-order term, which the first counts twice (Efron and Stein 1981, theorem
    2): it is subtracted once. It is that of ``_second_order_variance`` with the measured variances of D_ij.

    Args:
        features: of the samples or of the first of them, (N, D).
        samples: moments of all samples.
        reference: moments of the real images.
        strata: as of ``standard_error``.
    """
    root = _square_root(reference.covariance)
    values, vectors = torch.linalg.eigh(root @ samples.covariance @ root)
    inverse = torch.where(values > 1e-10 * values.max(), values.clamp(min=1e-300).rsqrt(), 0.0)
    map_ = root @ ((vectors * inverse) @ vectors.T) @ root
    centred = features.to(samples.mean) - samples.mean
    influence = 2 * centred @ (samples.mean - reference.mean)
    influence += ((centred - centred @ map_) * centred).sum(1)
    first = standard_error(influence, strata) ** 2 * len(features) / samples.n
    eigenvalues, eigenvectors = torch.linalg.eigh(samples.covariance)
    coordinates, eigenvalues = centred @ eigenvectors, eigenvalues.clamp(min=0)
    groups = [coordinates] if strata is None else [coordinates[strata == h] for h in strata.unique()]
    weights = [len(z) / len(coordinates) for z in groups]
    variances, means = torch.zeros_like(eigenvectors), torch.zeros_like(eigenvectors)
    for weight, z in zip(weights, groups, strict=True):
        variances += weight * _product_variance(z) / samples.n
        means += weight * (z - z.mean(0)).T @ (z - z.mean(0)) / len(z)
    sums = eigenvalues[:, None] + eigenvalues
    terms = torch.where(sums > 1e-10 * sums.max(), variances / sums, 0.0).square()
    # a diagonal D_ii has the weight 1/(4 l_i) = 1/(2 (l_i + l_i)), a pair i < j counts once
    second = float(terms.sum() - terms.trace() / 2) + 2 * float(means.square().sum()) / samples.n**2
    return math.sqrt(max(first - second, second))


def _product_variance(z: Tensor) -> Tensor:
    """Variance of z_i z_j over vectors z (N, D), for all i and j, (D, D)."""
    return z.square().T @ z.square() / len(z) - (z.T @ z / len(z)).square()


def _second_order_variance(samples: Moments) -> float:
    """Variance of the Frechet distance between a Gaussian and n samples of it, in the limit of many samples.

    |m - mu|^2 has the variance 2 tr(A^2)/n^2. With eigenvalues l of A the part of the covariance is, to second order,
    sum_{i <= j} D_ij^2 / (l_i + l_j), and D_ii^2 / 4 l_i on the diagonal, where D_ij ~ N(0, l_i l_j / n), twice that on
    the diagonal: variance 2 sum_{i <= j} (l_i l_j / (l_i + l_j))^2 / n^2.
    """
    values = torch.linalg.eigvalsh(samples.covariance).clamp(min=0)
    pairs = (values[:, None] * values / (values[:, None] + values).clamp(min=1e-300)).square()
    return float(pairs.sum() + pairs.trace() + 2 * values.square().sum()) / samples.n**2


def jackknifed_frechet(parts: Sequence[Moments], reference: Moments) -> ExtrapolatedEstimate:
    """Frechet distance of samples, with the standard error and the limit n -> infinity of a delete-a-group jackknife.

    The error is over sets of i.i.d. samples, the real images fixed; the second-order term, which the jackknife counts
    twice (Efron and Stein 1981, theorem 2), is subtracted once.

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
    jackknife = (groups - 1) / groups * float((left_out - left_out.mean()).square().sum())
    second = _second_order_variance(whole)
    error = math.sqrt(max(jackknife - second, second))
    limit = groups * value - (groups - 1) * float(left_out.mean())
    return ExtrapolatedEstimate(value, error, whole.n, limit)
