"""Exact models with closed forms that several test modules share."""

from __future__ import annotations

import math

import torch

from fromnoise.diffusion import schedules
from fromnoise.diffusion.oracles import GaussianMixture

D = {"dtype": torch.float64}
LIKE = torch.empty(0, **D)
COSINE = schedules.ContinuousCosine()


def mixture() -> GaussianMixture:
    """Three well separated Gaussians in the plane, of unequal weight, one of them thin."""
    covariances = [[[0.02, 0.01], [0.01, 0.03]], [[0.05, 0.0], [0.0, 0.05]], [[0.04, 0.019], [0.019, 0.01]]]
    return GaussianMixture(
        torch.tensor([0.5, 0.3, 0.2], **D),
        torch.tensor([[-1.0, 0.0], [1.0, 0.8], [0.7, -1.0]], **D),
        torch.tensor(covariances, **D),
    )


def gaussian() -> GaussianMixture:
    """One Gaussian in the plane, with a mean and a covariance that is not diagonal."""
    covariance = torch.tensor([[[0.3, 0.1], [0.1, 0.2]]], **D)
    return GaussianMixture(torch.ones(1, **D), torch.tensor([[0.4, -0.2]], **D), covariance)


def flow(x, level_t, level_s):
    """The probability flow of ``gaussian()``: along each eigenvector x scales with the standard deviation."""
    true = gaussian()
    values, vectors = torch.linalg.eigh(true.covariances[0])
    coordinates = (x - level_t.alpha * true.means[0]) @ vectors
    scale = ((level_s.alpha**2 * values + level_s.sigma**2) / (level_t.alpha**2 * values + level_t.sigma**2)).sqrt()
    return (coordinates * scale) @ vectors.T + level_s.alpha * true.means[0]


def eps_network(x: torch.Tensor, k: int) -> torch.Tensor:
    """A smooth, bounded function in the place of a network that predicts eps."""
    return 0.9 * torch.tanh(x * 1.3 + 0.1 * k / 1000) + 0.05 * torch.sin(5 * x)


def within(got: float, want: float, deviation: float, n: int, name: str) -> None:
    """Assert that a mean of ``n`` numbers of this standard deviation is within 4 standard errors of ``want``."""
    error = deviation / math.sqrt(n)
    assert abs(got - want) < 4 * error, (
        f"{name}: {got:.5f} for {want:.5f}, {abs(got - want) / error:.1f} standard errors"
    )
