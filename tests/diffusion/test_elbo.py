"""The terms of the variational bound: against numerical integration, and against the likelihood they bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from fromnoise.diffusion import Noise, Prediction, schedules
from fromnoise.diffusion.likelihood import elbo
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.diffusion.process import posterior_mean, posterior_variance
from fromnoise.diffusion.rng import Stream

TABLE = schedules.linear(1000)
D = {"dtype": torch.float64}


def kl_of_normals(m1, s1, m2, s2) -> float:
    """KL(N(m1, s1^2) || N(m2, s2^2)) by quadrature."""
    p, q = stats.norm(m1, s1), stats.norm(m2, s2)
    low, high = m1 - 12 * s1, m1 + 12 * s1
    return integrate.quad(lambda v: p.pdf(v) * (p.logpdf(v) - q.logpdf(v)), low, high, epsabs=1e-13, limit=200)[0]


@pytest.mark.parametrize("f", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("k", "j"), [(1000, 999), (500, 400), (2, 1)])
def test_step_kl_is_the_kl_divergence_of_two_gaussians(k, j, f):
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), summed over pixels, by quadrature."""
    level_t, level_s = TABLE.at(k / 1000), TABLE.at(j / 1000)
    x0, guess = torch.tensor([0.3, -0.9], **D), torch.tensor([0.25, -0.2], **D)
    x = torch.tensor([0.1, 0.4], **D)
    want = sum(
        kl_of_normals(
            float(posterior_mean(a, y, level_t, level_s)),
            float(posterior_variance(level_t, level_s).sqrt()),
            float(posterior_mean(b, y, level_t, level_s)),
            float(posterior_variance(level_t, level_s, f).sqrt()),
        )
        for a, b, y in zip(x0, guess, x, strict=True)
    )
    got = elbo.step_kl(x0[None], Prediction(guess[None]), level_t, level_s, f)
    assert float(got) == pytest.approx(want, rel=1e-8)
    if f == 0:
        short = 0.5 * (level_s.snr - level_t.snr) * ((x0 - guess) ** 2).sum()
        assert float(got) == pytest.approx(float(short), rel=1e-9)


def test_step_kl_takes_a_variance_for_each_pixel():
    """A learned variance fraction is a tensor; a model without one raises ValueError."""
    level_t, level_s = TABLE.at(0.5), TABLE.at(0.499)
    x0, guess = torch.tensor([[0.3, -0.9]], **D), torch.tensor([[0.2, -0.2]], **D)
    joint = elbo.step_kl(x0, Prediction(guess, torch.tensor([[0.1, 0.8]], **D)), level_t, level_s, None)
    separate = [
        elbo.step_kl(x0[:, i : i + 1], Prediction(guess[:, i : i + 1]), level_t, level_s, f)
        for i, f in enumerate((0.1, 0.8))
    ]
    assert float(joint) == pytest.approx(float(sum(separate)), rel=1e-12)
    with pytest.raises(ValueError, match="variance"):
        elbo.step_kl(x0, Prediction(guess), level_t, level_s, None)


def test_prior_kl_is_the_kl_divergence_to_a_standard_gaussian():
    """KL(q(x_T | x_0) || N(0, I)), by quadrature."""
    x0 = torch.tensor([[0.9, -0.5, 0.0]], **D)
    for table in (TABLE, schedules.linear(200, rescale=False)):
        last = table.at(1.0)
        want = sum(kl_of_normals(float(last.alpha * v), float(last.sigma), 0, 1) for v in x0[0])
        assert float(elbo.prior_kl(x0, last)) == pytest.approx(want, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("mean", [-1.3, -1.0, -0.2, 0.5, 1.0])
@pytest.mark.parametrize("deviation", [1e-3, 0.01, 0.3])
def test_decoder_is_a_distribution_over_pixels(mean, deviation):
    """The 256 probabilities sum to one and are those of scipy's normal cdf, also far in the tails."""
    pixels = torch.arange(256, **D) / 127.5 - 1
    nats = elbo.decoder_nll(pixels[:, None], torch.full((256, 1), mean, **D), torch.tensor(deviation, **D))
    assert bool(nats.isfinite().all())
    assert float(torch.exp(-nats).sum()) == pytest.approx(1, abs=1e-9)
    edges = np.concatenate([[-np.inf], (pixels[:-1] + 1 / 255).numpy(), [np.inf]])
    want = np.diff(stats.norm.cdf(edges, mean, deviation))
    large = want > 1e-8
    assert np.abs(torch.exp(-nats).numpy() - want)[large].max() < 1e-9


def test_decoder_gradient_is_finite_in_the_tails():
    """In float32 and at a mean far from the pixel, where a difference of cdfs would be 0."""
    mean = torch.tensor([[-1.0], [0.0], [1.0], [3.0]], requires_grad=True)
    nats = elbo.decoder_nll(torch.tensor([[1.0], [1.0], [-1.0], [0.0039215]]), mean, torch.tensor(0.01))
    nats.sum().backward()
    assert bool(nats.isfinite().all()) and bool(mean.grad.isfinite().all())
    assert bool((mean.grad.abs() > 1).all())


def test_decoder_std():
    """sqrt(beta tilde_2), as in the code of Ho et al.; a learned variance is between it and beta_1."""
    import paper

    betas = paper.linear_betas(1000)
    small = paper.posterior(betas, 2)[2] ** 0.5
    assert float(elbo.decoder_std(TABLE, 1000)) == pytest.approx(small, rel=1e-12)
    half = elbo.decoder_std(TABLE, 1000, torch.tensor([0.0, 0.5, 1.0], **D))
    assert half.tolist() == pytest.approx([small, (small * betas[0] ** 0.5) ** 0.5, betas[0] ** 0.5], rel=1e-10)
    with pytest.raises(ValueError, match="two steps"):
        elbo.decoder_std(schedules.linear(1), 1)


def uniform_in_logsnr(steps: int) -> schedules.BetaSchedule:
    """A beta schedule whose logsnr decreases linearly from 10 to -10."""
    survival = torch.sigmoid(torch.linspace(10, -10, steps, **D))
    return schedules.BetaSchedule(1 - survival / torch.cat([torch.ones(1, **D), survival[:-1]]))


def gap(steps: int, n: int = 400) -> tuple[float, float]:
    """Mean and standard error of L + log p(x_0) for a Gaussian and its exact denoiser."""
    variance, table = 0.25, uniform_in_logsnr(steps)
    true = GaussianMixture(torch.ones(1, **D), torch.tensor([[0.2]], **D), torch.tensor([[[variance]]], **D))
    x0, _ = true.sample(Noise(0, torch.arange(n)))
    total = elbo.prior_kl(x0, table.at(1.0)) + true.log_prob(x0, table.at(0.0))
    for k in range(1, steps + 1):
        level_t, level_s = table.at(k / steps), table.at((k - 1) / steps)
        x = level_t.noisy(x0, Noise(1, torch.arange(n)).normal((1,), Stream.EPS, k, like=x0))
        prediction = true(x, level_t)
        if k > 1:
            total = total + elbo.step_kl(x0, prediction, level_t, level_s)
        else:  # the exact p(x_0 | x_1), a density; decoder_nll integrates over the bins of 8-bit pixels
            posterior = 1 / (1 / variance + float(level_t.snr))
            total = total + 0.5 * ((x0 - prediction.x0)[:, 0] ** 2 / posterior + math.log(2 * math.pi * posterior))
    return float(total.mean()), float(total.std()) / n**0.5


def test_the_bound_of_an_exact_model_is_tight():
    """L approaches -log p(x_0) from above as 1/T (Ho et al. 2020, eq. 5; Kingma et al. 2021, app. F)."""
    (coarse, _), (fine, error) = gap(100), gap(1000)
    assert -4 * error < fine < 0.06 + 4 * error
    assert coarse == pytest.approx(10 * fine, rel=0.5)
