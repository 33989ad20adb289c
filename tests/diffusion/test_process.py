"""Forward and reverse transitions: the paper's formulas, and Bayes' rule for any two times."""

from __future__ import annotations

import numpy as np
import paper
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.diffusion import schedules
from fromnoise.diffusion.process import forward, posterior_mean, posterior_variance

ONE, ZERO = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
TABLES = {
    "linear": (schedules.linear(1000), paper.linear_betas(1000)),
    "cosine": (schedules.cosine(100), paper.cosine_betas(100)),
    "sigmoid": (schedules.sigmoid(100), paper.sigmoid_betas(100)),
    "literal 200": (schedules.linear(200, rescale=False), paper.linear_betas(200)),
}


def coefficients(table, k, j):
    """Of the package: weight of x_0, weight of x_t, small variance, large variance."""
    level_t, level_s = table.at(k / table.steps), table.at(j / table.steps)
    return (
        float(posterior_mean(ONE, ZERO, level_t, level_s)),
        float(posterior_mean(ZERO, ONE, level_t, level_s)),
        float(posterior_variance(level_t, level_s)),
        float(posterior_variance(level_t, level_s, 1.0)),
    )


@pytest.mark.parametrize("name", TABLES)
def test_posterior_of_every_step(name):
    """Ho et al. 2020, eq. 7, at all k: both weights of the mean, and both variances, to 1e-12."""
    table, betas = TABLES[name]
    for k in range(1, table.steps + 1):
        x0_weight, x_weight, small = paper.posterior(betas, k)
        got = coefficients(table, k, k - 1)
        assert np.abs(np.array(got) - (x0_weight, x_weight, small, betas[k - 1])).max() < 1e-12, k


@pytest.mark.parametrize("name", TABLES)
def test_posterior_of_skipped_steps(name):
    """Between any two steps, with the beta of the combined step."""
    table, betas = TABLES[name]
    rng = np.random.default_rng(0)
    for _ in range(200):
        j, k = sorted(rng.choice(table.steps + 1, 2, replace=False))
        x0_weight, x_weight, small, beta = paper.posterior_skipping(betas, k, j)
        assert np.abs(np.array(coefficients(table, k, j)) - (x0_weight, x_weight, small, beta)).max() < 1e-12, (j, k)


@given(times=st.lists(st.floats(1e-3, 1), min_size=2, max_size=2, unique=True), x=st.floats(-2, 2), x0=st.floats(-2, 2))
@settings(max_examples=100, deadline=None)
def test_posterior_is_bayes_rule(times, x, x0):
    """q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0): precisions add, at any two times."""
    s, t = sorted(times)
    if t - s < 1e-4:
        return
    level_t, level_s = schedules.ContinuousCosine().at(t), schedules.ContinuousCosine().at(s)
    scale, variance = forward(ONE, level_t, level_s)
    precision = scale**2 / variance + 1 / level_s.sigma**2
    mean = (scale * x / variance + level_s.alpha * x0 / level_s.sigma**2) / precision
    assert float(posterior_variance(level_t, level_s)) == pytest.approx(float(1 / precision), rel=1e-9)
    got = posterior_mean(torch.tensor(x0, dtype=torch.float64), torch.tensor(x, dtype=torch.float64), level_t, level_s)
    assert float(got) == pytest.approx(float(mean), abs=1e-9)


@given(times=st.lists(st.floats(1e-3, 1), min_size=2, max_size=2, unique=True))
@settings(max_examples=50, deadline=None)
def test_forward_steps_compose(times):
    """q(x_t | x_0) by way of any s."""
    s, t = sorted(times)
    level_t, level_s = schedules.linear(100).at(t), schedules.linear(100).at(s)
    scale, variance = forward(ONE, level_t, level_s)
    assert float(scale * level_s.alpha) == pytest.approx(float(level_t.alpha), rel=1e-12)
    assert float(scale**2 * level_s.sigma**2 + variance) == pytest.approx(float(level_t.sigma**2), rel=1e-12)


def test_variance_is_interpolated_in_the_logarithm():
    """Nichol and Dhariwal 2021, eq. 15."""
    table = schedules.linear(1000)
    level_t, level_s = table.at(0.5), table.at(0.499)
    small, half, large = (float(posterior_variance(level_t, level_s, f)) for f in (0.0, 0.5, 1.0))
    assert half == pytest.approx((small * large) ** 0.5, rel=1e-12)


def test_posterior_at_s_zero_is_the_clean_image():
    """The small variance is 0."""
    table = schedules.linear(10)
    assert float(posterior_variance(table.at(0.1), table.at(0.0))) == 0
    assert float(posterior_mean(ONE, ZERO, table.at(0.1), table.at(0.0))) == pytest.approx(1, abs=1e-14)
