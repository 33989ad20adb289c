"""Exact denoisers: distributions whose E[x_0 | x_t] has a closed form.

The oracles of every test, and a first picture without a network.

Both are called as a ``Denoiser`` is: ``denoise(x, level, cond, previous) -> Prediction``; x may have any shape (B,
...).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import NoiseLevel


def _keep(log_weights: Tensor, cond: Tensor | None) -> Tensor:
    """Log weights (B, K) with all but component ``cond`` ruled out; -1 rules out none."""
    if cond is None:
        return log_weights
    mine = torch.arange(log_weights.shape[1], device=cond.device) == cond[:, None]
    return torch.where(mine | (cond[:, None] < 0), log_weights, -math.inf)


def _scales(level: NoiseLevel) -> tuple[Tensor, Tensor]:
    """Alpha and sigma, () or (B, 1, 1)."""
    if level.alpha.ndim == 0:
        return level.alpha, level.sigma
    return level.alpha.reshape(-1, 1, 1), level.sigma.reshape(-1, 1, 1)


class GaussianMixture:
    """sum_k w_k N(m_k, S_k). Under noise it stays one: at level t component k is N(alpha m_k, alpha^2 S_k + sigma^2 I).

    ``cond`` names a component.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Decompose the covariances once.

        Args:
            weights: (K,), positive; normalised here.
            means: (K, D).
            covariances: (K, D, D), symmetric, positive semi-definite.
        """
        self.weights, self.means, self.covariances = weights / weights.sum(), means, covariances
        self._values, self._vectors = torch.linalg.eigh(covariances)  # (K, D), (K, D, D), columns are vectors

    def _whiten(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """Coordinates of x - alpha m_k along the axes of S_k, and the variances there: (B, K, D) and (K, D).

        The latter (B, K, D) where each image has a level of its own.
        """
        alpha, sigma = _scales(level)
        variances = alpha**2 * self._values.clamp(min=0) + sigma**2
        apart = x.flatten(1)[:, None] - alpha * self.means
        # a sum of products, not a matrix product: the last bit of the latter depends on the batch
        return (apart[..., :, None] * self._vectors).sum(-2), variances

    def _log_joint(self, x: Tensor, level: NoiseLevel, cond: Tensor | None) -> Tensor:
        """Log w_k + log N_k(x), (B, K)."""
        along, variances = self._whiten(x, level)
        density = -0.5 * (along**2 / variances + torch.log(2 * math.pi * variances)).sum(-1)
        return _keep(self.weights.log() + density, cond)

    def log_prob(self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None) -> Tensor:
        """Log density of x_t in nats, (B,); at t = 0 that of the data."""
        return torch.logsumexp(self._log_joint(x, level, cond), dim=1) - (
            torch.where(cond < 0, 0.0, self.weights.log()[cond.clamp(min=0)]) if cond is not None else 0.0
        )

    def responsibilities(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """Posterior of the component given x_t, (B, K)."""
        return torch.softmax(self._log_joint(x, level, None), dim=1)

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """E[x_0 | x_t] = sum_k r_k (m_k + alpha S_k (alpha^2 S_k + sigma^2 I)^-1 (x - alpha m_k))."""
        along, variances = self._whiten(x, level)
        pulled = _scales(level)[0] * self._values.clamp(min=0) / variances * along
        each = self.means + (self._vectors * pulled[..., None, :]).sum(-1)
        share = torch.softmax(self._log_joint(x, level, cond), dim=1)
        return Prediction((share[..., None] * each).sum(1).reshape(x.shape))

    def sample(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """Draw from the data's distribution: x (B, D) and the components (B,)."""
        which = torch.searchsorted(self.weights.to("cpu", torch.float64).cumsum(0), noise.uniform(Stream.DATA)).clamp(
            max=len(self.weights) - 1
        )
        z = noise.normal((self.means.shape[1],), Stream.DATA, 1, like=self.means)
        scaled = self._values[which].clamp(min=0).sqrt() * z
        return self.means[which] + (self._vectors[which] * scaled[:, None, :]).sum(-1), which


class FiniteSet:
    """A data set, each of its points equally likely: E[x_0 | x_t] = softmax_i(-|x - alpha x_i|^2 / (2 sigma^2)) x_i.

    It is what a network of unlimited capacity would learn. ``cond`` picks the points of a label.
    """

    def __init__(self, points: Tensor, labels: Tensor | None = None) -> None:
        """Keep the points.

        Args:
            points: (N, ...).
            labels: (N,) int64, needed if ``cond`` will be given.
        """
        self.points, self.labels = points, labels

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The weighted mean of the points.

        Raises:
            ValueError: ``cond`` was given and the points have no labels.
        """
        points = self.points.flatten(1)
        apart = ((x.flatten(1)[:, None] - level.alpha * points) ** 2).sum(-1)
        scores = -apart / (2 * level.sigma**2)
        if cond is not None:
            if self.labels is None:
                raise ValueError("these points have no labels")
            scores = torch.where((self.labels == cond[:, None]) | (cond[:, None] < 0), scores, -math.inf)
        share = torch.softmax(scores, dim=1)
        return Prediction((share[..., None] * points).sum(1).reshape(x.shape))
