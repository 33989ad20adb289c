"""Exact denoisers, against numerical integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from fromnoise.diffusion import Noise, schedules
from fromnoise.diffusion.oracles import EmpiricalDistribution, GaussianMixture

WEIGHTS, MEANS, DEVIATIONS = (0.3, 0.7), (-0.8, 0.5), (0.1, 0.3)
GRID = np.linspace(-4, 4, 40_001)


def one_dimensional() -> GaussianMixture:
    as_tensor = {"dtype": torch.float64}
    return GaussianMixture(
        torch.tensor(WEIGHTS, **as_tensor) * 5,
        torch.tensor(MEANS, **as_tensor)[:, None],
        torch.tensor(DEVIATIONS, **as_tensor)[:, None, None] ** 2,
    )


def prior(cond=None):
    parts = [w * stats.norm.pdf(GRID, m, s) for w, m, s in zip(WEIGHTS, MEANS, DEVIATIONS, strict=True)]
    return sum(parts) if cond is None else parts[cond] / WEIGHTS[cond]


@pytest.mark.parametrize("cond", [None, 0, 1])
@pytest.mark.parametrize("t", [0.02, 0.3, 0.7, 1.0])
def test_posterior_mean_and_density(t, cond):
    """E[x_0 | x_t] and log p(x_t) by the trapezoidal rule."""
    level = schedules.linear(1000).at(t)
    for x in (-1.2, -0.1, 0.4, 2.0):
        joint = prior(cond) * stats.norm.pdf(x, float(level.alpha) * GRID, float(level.sigma))
        total = np.trapezoid(joint, GRID)
        at, prediction = torch.tensor([[x]], dtype=torch.float64), torch.tensor([cond]) if cond is not None else None
        mean = float(one_dimensional()(at, level, prediction).x0)
        assert mean == pytest.approx(np.trapezoid(joint * GRID, GRID) / total, abs=1e-6)
        assert float(one_dimensional().log_prob(at, level, prediction)) == pytest.approx(np.log(total), abs=1e-6)


def test_responsibilities():
    """By Bayes' rule over the components."""
    level = schedules.linear(1000).at(0.4)
    a, s = float(level.alpha), float(level.sigma)
    joint = [
        w * stats.norm.pdf(0.1, a * m, np.hypot(a * d, s)) for w, m, d in zip(WEIGHTS, MEANS, DEVIATIONS, strict=True)
    ]
    got = one_dimensional().responsibilities(torch.tensor([[0.1]], dtype=torch.float64), level)[0]
    assert got.tolist() == pytest.approx([j / sum(joint) for j in joint], abs=1e-12)


def test_samples_of_the_mixture():
    """Kolmogorov-Smirnov test against the mixture's distribution function."""
    x, component = one_dimensional().sample(Noise(0, torch.arange(20_000)))

    def distribution(v):
        return sum(w * stats.norm.cdf(v, m, s) for w, m, s in zip(WEIGHTS, MEANS, DEVIATIONS, strict=True))

    assert stats.kstest(x[:, 0].numpy(), distribution).pvalue > 1e-3
    assert abs(float((component == 0).double().mean()) - 0.3) < 4 * (0.21 / 20_000) ** 0.5


def test_empirical_distribution_of_two_points():
    """E[x_0 | x_t] of two points at +-1 is tanh(alpha x / sigma^2)."""
    points = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    level = schedules.linear(1000).at(0.5)
    assert torch.allclose(
        EmpiricalDistribution(points)(x, level).x0, torch.tanh(level.alpha * x / level.sigma**2), atol=1e-12
    )


def test_labels_of_an_empirical_distribution():
    """cond selects the points of its class, -1 all; cond without labels raises ValueError."""
    points, labels = torch.tensor([[-1.0], [0.2], [1.0]]), torch.tensor([0, 1, 1])
    level, x = schedules.linear(1000).at(0.3), torch.zeros(3, 1)
    got = EmpiricalDistribution(points, labels)(x, level, torch.tensor([0, 1, -1])).x0
    assert float(got[0]) == -1
    assert torch.allclose(got[1:2], EmpiricalDistribution(points[1:])(x[:1], level).x0)
    assert torch.allclose(got[2:], EmpiricalDistribution(points)(x[:1], level).x0)
    with pytest.raises(ValueError, match="labels"):
        EmpiricalDistribution(points)(x, level, torch.tensor([0, 1, -1]))
