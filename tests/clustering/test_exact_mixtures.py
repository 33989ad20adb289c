"""Mixtures of Gaussians, whose denoisers, bounds and log p are exact: responsibilities, the bound, the choice of Q.

Well and badly separated, with equal and unequal weights.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
import torch

from fromnoise.clustering.expectation import EStep
from fromnoise.clustering.model_selection import mixture_bounds, select_count
from fromnoise.data import MemoryImages
from fromnoise.diffusion import Noise, schedules
from fromnoise.diffusion.likelihood.code_length import ELBO, StepProposal
from fromnoise.diffusion.likelihood.e_step import (
    EStepConfig,
    component_bounds,
    independent_bounds,
    mixture_elbo,
    responsibilities,
    truncate,
)
from fromnoise.diffusion.likelihood.elbo import density_nll
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.utils.device import select_device

D = {"dtype": torch.float64}
MEANS = torch.tensor([[-1.0, 0.0], [0.5, 0.9], [0.5, -0.9]], **D)
VARIANCES = torch.tensor([[0.04, 0.06], [0.05, 0.03], [0.06, 0.05]], **D)
WELL, BADLY = 0.7, 0.2  # distance of the means from the origin
EQUAL, UNEQUAL = (1 / 3, 1 / 3, 1 / 3), (0.7, 0.2, 0.1)
MIXTURES = [(separation, weights) for separation in (WELL, BADLY) for weights in (EQUAL, UNEQUAL)]
COSTLY = [pytest.param(*each, marks=pytest.mark.slow if each[1] == UNEQUAL else ()) for each in MIXTURES]
CLEAN = schedules.linear(1000).at(0.0)
STEPS = 400


@lru_cache
def mixture(separation: float, weights: tuple[float, ...]) -> GaussianMixture:
    """Three Gaussians of two pixels."""
    return GaussianMixture(torch.tensor(weights, **D), separation * MEANS, torch.diag_embed(VARIANCES))


def elbo_of(oracle: GaussianMixture) -> ELBO:
    """Of continuous pixels, on a schedule that is even in log-SNR but for a first step which suits the decoder."""
    logsnr = torch.cat([torch.tensor([9.0], **D), torch.linspace(8.3, -7, STEPS - 1, **D)])
    survival = torch.sigmoid(logsnr)
    betas = 1 - survival / torch.cat([torch.ones(1, **D), survival[:-1]])
    return ELBO(oracle, schedules.BetaSchedule(betas), decoder=density_nll)


def late_steps(min_time: float = 0.4) -> StepProposal:
    """Uniform over the steps at t > ``min_time``."""
    return StepProposal.uniform(STEPS).restricted(torch.arange(1, STEPS + 1) > min_time * STEPS)


def exact_bounds(oracle: GaussianMixture, x: torch.Tensor, allowed: StepProposal) -> torch.Tensor:
    """L_c of the allowed steps, float64 (B, K): the denoiser of a Gaussian is linear, so that errors are closed forms.

    x0_hat = m + a (x_t - alpha m) with a = alpha v / (alpha^2 v + sigma^2), and the KL divergence of a step is
    1/2 (SNR_s - SNR_t) |x0 - x0_hat|^2.
    """
    elbo, flat = elbo_of(oracle), x.flatten(1)[:, None]
    total = elbo.prior(x)[:, None].expand(-1, len(oracle.means)).clone()
    variances = torch.diagonal(oracle.covariances, dim1=1, dim2=2)
    for k in (allowed.probability.nonzero().flatten() + 1).tolist():
        level, before = elbo.schedule.at(k / STEPS), elbo.schedule.at((k - 1) / STEPS)
        a = level.alpha * variances / (level.alpha**2 * variances + level.sigma**2)
        error = (((flat - oracle.means) * (1 - a * level.alpha)) ** 2 + (a * level.sigma) ** 2).sum(2)
        snr = [(each.alpha / each.sigma) ** 2 for each in (before, level)]
        total += 0.5 * (snr[0] - snr[1]) * error
    return total


def minus_kl(oracle: GaussianMixture, x: torch.Tensor, k: int, nodes: int = 40) -> torch.Tensor:
    """-KL(q(x_t | x_0) || p(x_t)) at step k, (B,), by Gauss-Hermite quadrature."""
    z, w = (torch.tensor(each, **D) for each in np.polynomial.hermite_e.hermegauss(nodes))
    grid = torch.cartesian_prod(z, z)
    weight = torch.cartesian_prod(w, w).prod(1) / (2 * math.pi)
    level = elbo_of(oracle).schedule.at(k / STEPS)
    noisy = level.alpha * x.flatten(1)[:, None] + level.sigma * grid
    log_p = oracle.log_prob(noisy.flatten(0, 1), level).reshape(len(x), -1)
    return (weight * log_p).sum(1) + 1 + math.log(2 * math.pi) + 2 * level.sigma.log()


def test_truncation_costs_no_more_than_it_drops():
    """The fewest components of the mass are kept; F falls by -log of the kept mass."""
    weights, nats = torch.tensor([0.4, 0.3, 0.2, 0.1], **D), 3 * torch.randn(400, 4, **D)
    q, log_p = responsibilities(nats, weights), torch.logsumexp(weights.log() - nats, 1)
    for limit, mass in ((4, 0.999), (4, 0.9), (2, 1.0), (1, 0.999)):
        cut = truncate(q, limit, mass)
        kept = torch.where(cut > 0, q, 0.0).sum(1)
        assert torch.allclose(cut.sum(1), torch.ones(400, **D)) and int((cut > 0).sum(1).max()) <= limit
        assert torch.allclose(mixture_elbo(cut, nats, weights), log_p + kept.log())
        assert limit < 4 or bool((kept >= mass - 1e-12).all())
        smallest = torch.where(cut > 0, q, 2.0).amin(1)
        assert limit < 4 or bool((kept - smallest < mass).all()), "one component fewer would have done"
    one_hot = torch.eye(4, **D)
    assert torch.equal(truncate(one_hot, 3), one_hot)


@pytest.mark.parametrize(("separation", "weights"), MIXTURES)
def test_responsibilities_are_bayes_rule_within_their_errors(separation, weights):
    """Log odds against the most likely component, with the reported errors; q by 24 steps an image."""
    oracle = mixture(separation, weights)
    x, _ = oracle.sample(Noise(2, torch.arange(400)))
    allowed, x = late_steps(0.3), x.reshape(400, 1, 1, 2)
    found = component_bounds(elbo_of(oracle), x, Noise(0, torch.arange(400)), 3, allowed, EStepConfig(24, 0, 3))
    exact = exact_bounds(oracle, x, allowed)
    best = found.nats.argmin(1, keepdim=True)
    gap, exact_gap = (nats - nats.gather(1, best) for nats in (found.nats, exact))
    measured = found.error > 0
    z = ((gap - exact_gap) / found.error)[measured]
    assert float((z.abs() < 2).double().mean()) > 0.91 and float(z.abs().median()) < 1
    q, exact_q = responsibilities(found.nats, oracle.weights), responsibilities(exact, oracle.weights)
    # to first order dq_c = q_c (d_c - sum_b q_b d_b), at most this for |d| of the reported errors
    error = q * ((1 - q) * found.error + (q * found.error).sum(1, keepdim=True) - q * found.error)
    assert float(((q - exact_q).abs() < 2 * error + 0.01).double().mean()) > 0.95
    assert abs(float((q - exact_q).mean(0).abs().max())) < 0.02


@pytest.mark.parametrize(("separation", "weights"), MIXTURES)
def test_the_cross_fitted_bound_is_unbiased_and_the_plug_in_is_not(separation, weights):
    """Against closed forms: mean F of each estimated q, over 150 repetitions of 16 images with two diffusion steps."""
    oracle, allowed = mixture(separation, weights), late_steps()
    images = oracle.sample(Noise(4, torch.arange(16)))[0].reshape(16, 1, 1, 2)
    exact = exact_bounds(oracle, images, allowed)
    tight = mixture_elbo(responsibilities(exact, oracle.weights), exact, oracle.weights)
    assert bool((tight <= minus_kl(oracle, images, int(0.4 * STEPS))).all())
    x, noise = images.repeat(150, 1, 1, 1), Noise(0, torch.arange(150 * 16))
    elbo, repeated = elbo_of(oracle), exact.repeat(150, 1)
    nats = component_bounds(elbo, x, noise, 3, allowed, EStepConfig(1, 1, 2, 0.99)).nats
    q = truncate(responsibilities(nats, oracle.weights), 2)
    other = independent_bounds(elbo, x, noise, q > 0, allowed, 2)
    assert torch.equal(other.isfinite(), q > 0)
    f = mixture_elbo(q, other, oracle.weights)
    bias = f - mixture_elbo(q, repeated, oracle.weights)
    error = float(bias.std()) / len(bias) ** 0.5
    assert abs(float(bias.mean())) < 4 * error
    excess = f - tight.repeat(150)
    assert float(excess.mean()) < 2 * error
    # where clusters overlap q follows the errors; where they do not, images that look clear are not refined
    optimism = mixture_elbo(responsibilities(nats, oracle.weights), nats, oracle.weights) - f
    assert float(optimism.mean()) > 5 * float(optimism.std()) / len(bias) ** 0.5


def test_independent_bounds_of_an_image_depend_on_nothing_else():
    """Neither on the batch, nor on the other components; and no random number is one of the E-step's."""
    oracle, allowed = mixture(BADLY, UNEQUAL), StepProposal.uniform(STEPS)
    x, ids = oracle.sample(Noise(2, torch.arange(12)))[0].reshape(12, 1, 1, 2), torch.arange(12)
    elbo, every = elbo_of(oracle), torch.ones(12, 3, dtype=torch.bool)
    whole = independent_bounds(elbo, x, Noise(0, ids), every, allowed, 3)
    few = every & (torch.rand(12, 3) < 0.5)
    part = independent_bounds(elbo, x[4:9], Noise(0, ids[4:9]), few[4:9], allowed, 3)
    assert torch.allclose(part[few[4:9]], whole[4:9][few[4:9]], rtol=1e-12, atol=0)
    e_step = component_bounds(elbo, x, Noise(0, ids), 3, allowed, EStepConfig(3, 0, 3)).nats
    assert bool(((e_step - whole).abs() > 1e-6).all())


@pytest.mark.parametrize(("separation", "weights"), COSTLY)
def test_the_bound_is_below_log_p_in_200_of_200_draws(separation, weights):
    """Up to twice its error, for 200 sets of 24 images with their own noise; q by a pruned E-step.

    On average it is below log p, by what T steps and the decoder lose (0.6 nats here) and little more.
    """
    draws, images = 200, 24
    oracle, ids = mixture(separation, weights), torch.arange(draws * images)
    x = oracle.sample(Noise(3, ids))[0].reshape(-1, 1, 1, 2)
    elbo, noise = elbo_of(oracle), Noise(0, ids)
    uniform = StepProposal.uniform(STEPS)
    pilot = elbo.sampled_terms(x[:64], Noise(9, ids[:64]), uniform, 48, ids[:64] % 3)
    proposal = StepProposal.importance(pilot, STEPS)
    found = component_bounds(elbo, x, noise, 3, proposal, EStepConfig(2, 6, 2, 0.999))
    q = truncate(responsibilities(found.nats, oracle.weights), 2)
    f = mixture_elbo(q, independent_bounds(elbo, x, noise, q > 0, proposal, 16), oracle.weights)
    excess = (f - oracle.log_prob(x, CLEAN)).reshape(draws, images)
    error = excess.std(1) / images**0.5
    assert int((excess.mean(1) < 2 * error).sum()) == draws
    assert -1.2 < float(excess.mean()) < -3 * float(excess.std()) / len(ids) ** 0.5


# ---- the number of clusters


def fitted_mixtures(oracle: GaussianMixture, seed: int, training: int = 300, held_out: int = 200):
    """Exact denoisers of mixtures of 1 to 6 Gaussians fitted to samples, and other samples as images."""
    from sklearn import mixture as sklearn_mixture

    x = oracle.sample(Noise(seed, torch.arange(training + held_out)))[0]
    pixels = (x * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).reshape(-1, 1, 1, 2)
    points = (pixels[:training].double() / 127.5 - 1).reshape(-1, 2).numpy()
    found = {}
    for count in range(1, 7):
        fit = sklearn_mixture.GaussianMixture(count, covariance_type="diag", random_state=seed).fit(points)
        w, means, variances = (torch.tensor(v, **D) for v in (fit.weights_, fit.means_, fit.covariances_))
        found[count] = GaussianMixture(w, means, torch.diag_embed(variances))
    return found, MemoryImages(pixels[training:])


def bounds_by_count(oracle: GaussianMixture, seed: int, steps: int = 10) -> dict[int, torch.Tensor]:
    """What ``select_count`` compares."""
    models, images = fitted_mixtures(oracle, seed)
    compute = select_device("cpu", "fp32")
    return {
        count: mixture_bounds(EStep(elbo_of(fit), count, compute, seed), images, fit.weights, late_steps(0.3), steps)
        for count, fit in models.items()
    }


@pytest.mark.parametrize(("separation", "weights"), COSTLY)
def test_the_number_of_clusters_is_right_where_the_data_allow_it(separation, weights):
    """Three where they are well separated; where no sample shows them, no more than three."""
    found = select_count(bounds_by_count(mixture(separation, weights), 0))
    assert found == 3 if separation == WELL else found <= 3


@pytest.mark.long
def test_the_number_of_clusters_over_seeds_and_separations():
    """As above for ten seeds and four separations: never more than three, and three in all well separated sets."""
    for separation in (BADLY, 0.35, 0.5, WELL):
        for weights in (EQUAL, UNEQUAL):
            found = [select_count(bounds_by_count(mixture(separation, weights), seed)) for seed in range(10)]
            assert max(found) <= 3 and (separation != WELL or min(found) == 3), (separation, weights, found)


def test_the_choice_is_not_biased_by_the_errors_of_the_estimates():
    """At three diffusion steps, six clusters against one, whose F has no q.

    F by the estimates that gave q favours six by more than 0.1 nats, the bound one by as much, their mean neither.
    """
    models, images = fitted_mixtures(mixture(BADLY, EQUAL), 0, held_out=800)
    x, allowed, ids = images.get(torch.arange(800)).double() / 127.5 - 1, late_steps(0.3), torch.arange(800)
    errors = []
    for count in (1, 6):
        weights, e_step = models[count].weights, EStep(elbo_of(models[count]), count, select_device("cpu", "fp32"), 0)
        exact = exact_bounds(models[count], x, allowed)
        best = mixture_elbo(responsibilities(exact, weights), exact, weights)
        batches = e_step.component_bounds(images, allowed, EStepConfig(3, 0, count))
        nats = torch.cat([bounds.nats for _, bounds in batches])
        q = responsibilities(nats, weights)
        bound = torch.cat([f[0] for f in e_step.cross_fitted_elbo(images, ids, [q], weights, allowed, 3)])
        found = (mixture_elbo(q, nats, weights), bound, mixture_bounds(e_step, images, weights, allowed, 3))
        errors.append(torch.stack([f - best for f in found]))
    plug_in, bound, both = (errors[1] - errors[0]).mean(1).tolist()
    assert plug_in > 0.1 and bound < -0.1 and abs(both) < 0.05
