"""Prediction targets: conversion to x_0, weights, and the coefficients of EDM."""

from __future__ import annotations

import numpy as np
import paper
import pytest
import torch

from fromnoise.diffusion import schedules
from fromnoise.diffusion.targets import EDM, X0, Eps, PosteriorMean, V

TABLE = schedules.linear(1000)
TARGETS = [Eps(), X0(), V(), EDM(0.4), PosteriorMean(TABLE)]
TIMES = torch.tensor([1, 2, 100, 500, 1000], dtype=torch.float64) / 1000


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(1)
    x0, eps = (torch.randn(len(TIMES), 3, 4, 5, generator=g, dtype=torch.float64) for _ in range(2))
    return x0, eps, TABLE.at(TIMES, like=x0)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: type(t).__name__)
def test_x0_inverts_target_from(target, images):
    """x0(x, target_from(x0, eps)) is x0."""
    x0, eps, level = images
    back = target.x0(level.noisy(x0, eps), target.target_from(x0, eps, level), level)
    assert torch.allclose(back, x0, rtol=0, atol=1e-8)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: type(t).__name__)
def test_snr_weight_is_the_squared_derivative(target, images):
    """An error d in x_0 at fixed x_t is an error of squared size snr_weight d^2 in the target."""
    x0, eps, level = images
    x = level.noisy(x0, eps)
    other = x0 + 0.5
    moved = target.target_from(other, level.eps(x, other), level) - target.target_from(x0, eps, level)
    assert torch.allclose(moved**2, target.snr_weight(level).expand_as(moved) * 0.25, rtol=1e-6)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: type(t).__name__)
def test_levels_without_a_batch(target):
    """Scalar levels of a sampler and (B, 1, 1, 1) levels of training give the same result."""
    x0, eps = torch.randn(2, 1, 2, 2, 2, dtype=torch.float64)
    many = TABLE.at(torch.tensor([0.3, 0.3]), like=x0)
    one = TABLE.at(0.3)
    assert torch.allclose(target.target_from(x0, eps, one), target.target_from(x0, eps, many))
    out = target.target_from(x0, eps, one)
    assert torch.allclose(target.x0(one.noisy(x0, eps), out, one), target.x0(one.noisy(x0, eps), out, many))


def test_posterior_mean_is_equation_8():
    """mu(x_k, eps) = (x_k - beta_k / sqrt(1 - A_k) eps) / sqrt(1 - beta_k) (Ho et al. 2020, eqs. 8 and 10)."""
    betas = paper.linear_betas(1000)
    bars = paper.alpha_bar(betas)
    x0, eps = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64)
    for k in (1, 2, 57, 1000):
        level = TABLE.at(k / 1000)
        x = level.noisy(x0, eps)
        literal = (x - betas[k - 1] / np.sqrt(1 - bars[k]) * eps) / np.sqrt(1 - betas[k - 1])
        assert torch.allclose(PosteriorMean(TABLE).target_from(x0, eps, level), literal, rtol=0, atol=1e-12)


def test_posterior_mean_needs_a_beta_schedule():
    """In continuous time there is no previous step."""
    with pytest.raises(ValueError, match="beta schedule"):
        PosteriorMean(schedules.ContinuousCosine())


def test_edm_coefficients():
    """D(y; s) = c_skip y + c_out F(c_in y) with the coefficients of Karras et al. 2022, table 1, at y = x/alpha."""
    x0, eps, out = torch.randn(3, 1, 1, 2, 2, dtype=torch.float64)
    d = 0.4
    for t in (0.001, 0.05, 0.5, 1.0):
        level = TABLE.at(t)
        x, s = level.noisy(x0, eps), level.sigma / level.alpha
        y = x / level.alpha
        skip, scale = d**2 / (s**2 + d**2), s * d / (s**2 + d**2) ** 0.5
        assert torch.allclose(EDM(d).x0(x, out, level), skip * y + scale * out, rtol=1e-12)
        assert torch.allclose(EDM(d).scale_input(x, level), y / (s**2 + d**2) ** 0.5, rtol=1e-12)
        assert torch.allclose(EDM(1.0).target_from(x0, eps, level), -V().target_from(x0, eps, level), rtol=1e-12)


def test_edm_input_and_target_have_unit_variance():
    """For white images of standard deviation sigma_data, at every level."""
    g = torch.Generator().manual_seed(2)
    x0, eps = torch.randn(2, 50_000, generator=g, dtype=torch.float64)
    for t in (0.001, 0.2, 1.0):
        level = TABLE.at(t)
        target = EDM(0.4)
        assert float(target.scale_input(level.noisy(0.4 * x0, eps), level).std()) == pytest.approx(1, abs=0.02)
        assert float(target.target_from(0.4 * x0, eps, level).std()) == pytest.approx(1, abs=0.02)
