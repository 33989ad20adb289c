"""Offset noise and truncated noise, in the random numbers and in the sampling loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

from fromnoise.diffusion import (
    DDIM,
    Ancestral,
    Noise,
    Prediction,
    Stream,
    initial_noise,
    sampling,
    sampling_loop,
    schedules,
)
from fromnoise.diffusion.likelihood import ELBO, ProbabilityFlow, RungeKutta
from fromnoise.diffusion.likelihood.conditions import log_determinant, whiten
from fromnoise.diffusion.oracles import GaussianMixture

LIKE = torch.empty(0, dtype=torch.float64)
SHAPE, SIZE, OFFSET = (2, 2, 2), 8, 0.8
J = torch.block_diag(torch.ones(4, 4), torch.ones(4, 4)).double()
COVARIANCE = torch.eye(SIZE, dtype=torch.float64) + OFFSET**2 * J


def test_covariance_of_offset_noise():
    """N(0, I + offset^2 J), J all ones within a channel (Guttenberg 2023); without offset it is plain noise."""
    n = 40_000
    sampled = Noise(0, torch.arange(n), OFFSET).image(SHAPE, Stream.STEP, 3, like=LIKE).flatten(1)
    standard_error = (COVARIANCE.diagonal()[:, None] * COVARIANCE.diagonal() + COVARIANCE**2).sqrt() / n**0.5
    assert bool(((torch.cov(sampled.T) - COVARIANCE).abs() < 5 * standard_error).all())
    plain = Noise(0, torch.arange(5))
    assert torch.equal(plain.image(SHAPE, Stream.START, like=LIKE), plain.normal(SHAPE, Stream.START, like=LIKE))


@pytest.mark.parametrize("bound", [0.3, 1.0, 2.5])
def test_truncated_noise(bound):
    """N(0, 1) given |z| <= bound, by a Kolmogorov-Smirnov test; it is monotonic in the plain noise."""
    noise = Noise(0, torch.arange(20_000))
    plain = noise.image((1,), Stream.START, like=LIKE)[:, 0]
    truncated = Noise(0, noise.ids, truncation=bound).image((1,), Stream.START, like=LIKE)[:, 0]
    assert float(truncated.abs().max()) <= bound
    assert stats.kstest(truncated.numpy(), stats.truncnorm(-bound, bound).cdf).pvalue > 1e-3
    assert bool((truncated[plain.argsort()].diff() >= 0).all())


def exact(mean, covariance, noise):
    """E[x_0 | x_t] of N(mean, covariance) under noise of covariance ``noise``."""

    def denoise(x, level, cond=None, previous=None):
        a, s = float(level.alpha), float(level.sigma)
        gain = a * covariance @ torch.linalg.inv(a**2 * covariance + s**2 * noise)
        return Prediction((mean + (x.flatten(1) - a * mean) @ gain.T).reshape(x.shape))

    return denoise


@pytest.mark.parametrize("sampler", [DDIM(0.0), Ancestral(0.0)], ids=["ddim", "ancestral"])
def test_sampling_with_offset_noise(sampler):
    """The covariance of a Gaussian is reproduced; from plain noise the brightness has too little variance."""
    rng = np.random.default_rng(0)
    root = torch.from_numpy(rng.normal(size=(SIZE, SIZE))) * 0.2
    covariance, mean = root @ root.T + 0.02 * torch.eye(SIZE) + 0.3 * J, torch.from_numpy(rng.normal(size=SIZE)) * 0.3
    denoise, n = exact(mean, covariance, COVARIANCE), 2000
    got = {}
    for offset in (OFFSET, 0.0):
        noise = Noise(0, torch.arange(n), offset)
        x = initial_noise(SHAPE, noise, LIKE)
        for step in sampling_loop(denoise, sampler, sampling.uniform(schedules.cosine(1000), 400), x, noise):
            x = step.x
        sampled = x.flatten(1)
        standard_error = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / n**0.5
        got[offset] = float(((torch.cov(sampled.T) - covariance).abs() / standard_error).max())
    assert got[OFFSET] < 4.5 < got[0.0]


def test_a_sampler_may_use_many_random_numbers_a_step():
    """All are different, and the first sixteen of each step are parts 16 i to 16 i + 15 of the stream."""

    class ManyNumbers(DDIM):
        def step(self, denoise, x, level_t, level_s, noise, memory):
            numbers.append(torch.stack([noise() for _ in range(60)]))
            return super().step(denoise, x, level_t, level_s, noise, memory)

    numbers: list[torch.Tensor] = []
    noise = Noise(0, torch.arange(1))
    levels = sampling.uniform(schedules.linear(1000), 10)
    for _ in sampling_loop(
        lambda x, level, cond=None, previous=None: Prediction(x),
        ManyNumbers(),
        levels,
        initial_noise((1,), noise, LIKE),
        noise,
    ):
        pass
    flat = torch.cat(numbers).flatten()
    assert len(flat.unique()) == len(flat) == 600
    assert torch.equal(numbers[2][5], noise.normal((1,), Stream.STEP, 2 * 16 + 5, like=LIKE))


# ---- likelihoods (review B4)


def gaussian_data():
    """Covariance of a correlated Gaussian, and 200 images of it."""
    generator = torch.Generator().manual_seed(0)
    factor = 0.1 * torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64) + 0.2 * torch.eye(SIZE)
    covariance = factor @ factor.T
    x = torch.randn(200, SIZE, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    return covariance, x.reshape(200, *SHAPE)


def test_b4_flow_likelihood_with_offset_noise():
    """The density of x_1 under the exact flow of a Gaussian, N(0, alpha^2 S + sigma^2 C).

    Version 0.1 had the flow of white noise.
    """
    covariance, x0 = gaussian_data()
    denoise = exact(torch.zeros(SIZE), covariance, COVARIANCE)
    flow = ProbabilityFlow(denoise, schedules.linear(100), RungeKutta(40), offset=OFFSET)
    first, last = flow.clean_level, flow.noisy_level
    x = first.noisy(x0, Noise(0, torch.arange(200), OFFSET).image(SHAPE, Stream.DATA, like=LIKE))
    total = first.alpha**2 * covariance + first.sigma**2 * COVARIANCE
    expected = MultivariateNormal(torch.zeros(SIZE).double(), total).log_prob(x.flatten(1))
    assert float(last.alpha) < 0.01
    torch.testing.assert_close(flow.log_prob(x), expected, atol=0.02, rtol=0)


def test_b4_bound_with_offset_noise_is_that_of_white_noise_in_other_coordinates():
    """In y = C^(-1/2) x the noise is white, and prior and steps are the same.

    Version 0.1 had the bound of white noise, the second difference below.
    """
    covariance, x0 = gaussian_data()
    table, noise = schedules.linear(200), Noise(0, torch.arange(200))
    values, vectors = torch.linalg.eigh(COVARIANCE)
    root, inverse = ((vectors * values**p) @ vectors.T for p in (0.5, -0.5))
    white = GaussianMixture(torch.ones(1), torch.zeros(1, SIZE).double(), (inverse @ covariance @ inverse)[None])

    def denoise(x, level, cond=None, previous=None):
        y0 = white((x.flatten(1) @ inverse).reshape(x.shape), level).x0
        return Prediction((y0.flatten(1) @ root).reshape(x.shape))

    def nats(elbo, x):
        steps = [term.nats for term in elbo.all_terms(x, noise) if term.k > 1]
        return elbo.prior(x) + torch.stack(steps).sum(0)

    expected = nats(ELBO(white, table), (x0.flatten(1) @ inverse).reshape(x0.shape))
    differences = [nats(ELBO(denoise, table, 0.0, offset), x0) - expected for offset in (OFFSET, 0.0)]
    error = float(differences[0].std()) / 200**0.5
    assert abs(float(differences[0].mean())) < 4 * error < 1.2
    assert abs(float(differences[1].mean())) > 6 * error


def test_b4_whitening_and_determinant():
    """C^(-1/2) and log det C of the covariance, by linear algebra.

    Version 0.1 had neither.
    """
    values, vectors = torch.linalg.eigh(COVARIANCE)
    root = (vectors * values.rsqrt()) @ vectors.T
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(whiten(x, OFFSET).flatten(1), x.flatten(1) @ root)
    assert log_determinant(x.shape, OFFSET) == pytest.approx(float(torch.logdet(COVARIANCE)))
    assert whiten(x, 0.0) is x


def test_b8_more_than_240_noise_tensors_a_step():
    """As a solver with 100 resamplings takes: no StopIteration, and all are different.

    Version 0.1 ended with 'generator raised StopIteration'.
    """

    class ManyNumbers(DDIM):
        def step(self, denoise, x, level_t, level_s, noise, memory):
            numbers.append(torch.stack([noise() for _ in range(500)]))
            return super().step(denoise, x, level_t, level_s, noise, memory)

    numbers: list[torch.Tensor] = []
    noise, levels = Noise(0, torch.arange(1)), sampling.uniform(schedules.linear(1000), 3)
    x = initial_noise((1,), noise, LIKE)
    list(sampling_loop(lambda x, level, cond=None, previous=None: Prediction(x), ManyNumbers(), levels, x, noise))
    assert len(torch.cat(numbers).flatten().unique()) == 1500


@pytest.mark.parametrize("truncation", [6.0, 8.0, 40.0])
def test_b8_wide_truncation_in_float32_is_finite(truncation, monkeypatch):
    """Numbers as large as float32 rounds to probability 1 or 0.

    Version 0.1 had -inf once in 3.7e7 numbers.
    """
    extremes = torch.tensor([[-7.0, -5.6, 0.0, 5.6, 7.0]])
    monkeypatch.setattr(Noise, "normal", lambda *args, **named: extremes)
    z = Noise(0, torch.arange(1), truncation=truncation).image((5,), Stream.START, like=torch.empty(0))
    assert z.dtype == torch.float32 and bool(torch.isfinite(z).all()) and float(z.abs().max()) <= truncation
    torch.testing.assert_close(z, extremes.clamp(-truncation, truncation), atol=0.3, rtol=0)
