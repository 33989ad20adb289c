"""Exact denoisers: distributions whose E[x_0 | x_t] has a closed form, for tests and demonstrations.

They are called as a ``Denoiser``, ``denoise(x, level, cond, previous) -> Prediction``, on x of any shape (B, ...).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import NoiseLevel


def _select(log_weights: Tensor, cond: Tensor | None) -> Tensor:
    """Log weights (B, K) with -inf for all components but ``cond``; -1 selects all."""
    if cond is None:
        return log_weights
    selected = torch.arange(log_weights.shape[1], device=cond.device) == cond[:, None]
    return torch.where(selected | (cond[:, None] < 0), log_weights, -math.inf)


def _scales(level: NoiseLevel) -> tuple[Tensor, Tensor]:
    """Alpha and sigma, () or (B, 1, 1)."""
    if level.alpha.ndim == 0:
        return level.alpha, level.sigma
    return level.alpha.reshape(-1, 1, 1), level.sigma.reshape(-1, 1, 1)


class GaussianMixture:
    """The mixture sum_k w_k N(m_k, S_k), whose components at level t are N(alpha m_k, alpha^2 S_k + sigma^2 I).

    ``cond`` is the index of a component, -1 for the mixture.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Decompose the covariances.

        Args:
            weights: w, (K,), positive; normalized here.
            means: m, (K, D).
            covariances: S, (K, D, D), symmetric positive semi-definite.
        """
        self.weights, self.means, self.covariances = weights / weights.sum(), means, covariances
        self._values, self._vectors = torch.linalg.eigh(covariances)  # (K, D), (K, D, D), columns are vectors

    def _whiten(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """X - alpha m_k in the eigenbasis of S_k, (B, K, D), and the variances along it.

        The variances are (K, D), or (B, K, D) if each image has a level of its own.
        """
        alpha, sigma = _scales(level)
        variances = alpha**2 * self._values.clamp(min=0) + sigma**2
        difference = x.flatten(1)[:, None] - alpha * self.means
        # a sum of products, not a matrix product, whose last bit depends on the batch size
        return (difference[..., :, None] * self._vectors).sum(-2), variances

    def _log_joint(self, x: Tensor, level: NoiseLevel, cond: Tensor | None) -> Tensor:
        """Log w_k + log N_k(x), (B, K)."""
        coordinates, variances = self._whiten(x, level)
        density = -0.5 * (coordinates**2 / variances + torch.log(2 * math.pi * variances)).sum(-1)
        return _select(self.weights.log() + density, cond)

    def log_prob(self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None) -> Tensor:
        """Log density of x_t, nats (B,); at t = 0 that of the data.

        Args:
            x: (B, ...) of D elements each.
            level: t.
            cond: components (B,), or None.
        """
        return torch.logsumexp(self._log_joint(x, level, cond), dim=1) - (
            torch.where(cond < 0, 0.0, self.weights.log()[cond.clamp(min=0)]) if cond is not None else 0.0
        )

    def responsibilities(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """Posterior probabilities of the components given x_t, (B, K)."""
        return torch.softmax(self._log_joint(x, level, None), dim=1)

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """E[x_0 | x_t] = sum_k r_k (m_k + alpha S_k (alpha^2 S_k + sigma^2 I)^-1 (x - alpha m_k))."""
        coordinates, variances = self._whiten(x, level)
        gained = _scales(level)[0] * self._values.clamp(min=0) / variances * coordinates
        means = self.means + (self._vectors * gained[..., None, :]).sum(-1)
        r = torch.softmax(self._log_joint(x, level, cond), dim=1)
        return Prediction((r[..., None] * means).sum(1).reshape(x.shape))

    def sample(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """Samples of the data distribution, (B, D), and their components (B,)."""
        component = torch.searchsorted(
            self.weights.to("cpu", torch.float64).cumsum(0), noise.uniform(Stream.DATA)
        ).clamp(max=len(self.weights) - 1)
        z = noise.normal((self.means.shape[1],), Stream.DATA, 1, like=self.means)
        scaled = self._values[component].clamp(min=0).sqrt() * z
        return self.means[component] + (self._vectors[component] * scaled[:, None, :]).sum(-1), component


class EmpiricalDistribution:
    """The uniform distribution over a finite data set, which a network of unlimited capacity would learn.

    E[x_0 | x_t] = sum_i softmax_i(-|x_t - alpha x_i|^2 / (2 sigma^2)) x_i

    ``cond`` is the label of the points that take part, -1 for all.
    """

    def __init__(self, points: Tensor, labels: Tensor | None = None) -> None:
        """Set the points.

        Args:
            points: (N, ...).
            labels: (N,) int64; needed for ``cond``.
        """
        self.points, self.labels = points, labels

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The weighted mean of the points.

        Raises:
            ValueError: ``cond`` is given and the points have no labels.
        """
        points = self.points.flatten(1)
        squared_distance = ((x.flatten(1)[:, None] - level.alpha * points) ** 2).sum(-1)
        scores = -squared_distance / (2 * level.sigma**2)
        if cond is not None:
            if self.labels is None:
                raise ValueError("these points have no labels")
            scores = torch.where((self.labels == cond[:, None]) | (cond[:, None] < 0), scores, -math.inf)
        weights = torch.softmax(scores, dim=1)
        return Prediction((weights[..., None] * points).sum(1).reshape(x.shape))
