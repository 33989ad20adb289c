"""Both steps of variational EM against Bayes' rule on Gaussian mixtures, whose denoisers are exact."""

from __future__ import annotations

import math

import pytest
import torch

from fromnoise.diffusion import Noise, schedules
from fromnoise.diffusion.likelihood.code_length import ELBO, StepProposal
from fromnoise.diffusion.likelihood.e_step import (
    EStepConfig,
    component_bounds,
    difference_proposal,
    mixture_elbo,
    mixture_weights,
    responsibilities,
)
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.diffusion.rng import Stream

D = {"dtype": torch.float64}
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], **D)
MEANS = torch.tensor([[-0.35, 0.0, 0.1, 0.2], [0.3, 0.25, -0.1, 0.0], [0.2, -0.4, 0.1, 0.3]], **D)
VARIANCES = torch.tensor([[0.05, 0.04, 0.06, 0.05], [0.03, 0.06, 0.05, 0.08], [0.06, 0.05, 0.04, 0.03]], **D)
STEPS = 2000


def gaussians() -> GaussianMixture:
    """Three overlapping Gaussians of four pixels."""
    return GaussianMixture(WEIGHTS, MEANS, torch.diag_embed(VARIANCES))


def even_logsnr(steps: int = STEPS) -> schedules.BetaSchedule:
    """Evenly spaced in log-SNR, from far below the grid of the pixels to pure noise: the bound is nearly tight."""
    survival = torch.sigmoid(torch.linspace(9, -7, steps, **D))
    return schedules.BetaSchedule(1 - survival / torch.cat([torch.ones(1, **D), survival[:-1]]))


def sample_images(n: int, mixture: GaussianMixture, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples on the grid of 8-bit pixels, (n, 1, 2, 2), and their components."""
    x, components = mixture.sample(Noise(seed, torch.arange(n)))
    return ((x * 127.5 + 127.5).round() / 127.5 - 1).reshape(n, 1, 2, 2), components


def bayes(mixture: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    """Exact responsibilities of clean images."""
    return mixture.responsibilities(x, schedules.linear(1000).at(0.0))


def test_bounds_and_responsibilities_agree_with_bayes_rule():
    """Differences of L_c equal those of -log p_c within their errors, by repeated estimates of 60 images."""
    mixture, repeats = gaussians(), 24
    images, _ = sample_images(60, mixture)
    x, level = images.repeat(repeats, 1, 1, 1), schedules.linear(1000).at(0.0)
    elbo, noise = ELBO(mixture, even_logsnr()), Noise(0, torch.arange(len(x)))
    found = component_bounds(elbo, x, noise, 3, StepProposal.uniform(STEPS), EStepConfig(40, 0, 3))
    exact = -torch.stack([mixture.log_prob(images, level, torch.full((60,), c)) for c in range(3)], 1)
    exact_difference = exact[:, 1:] - exact[:, :1]
    difference = (found.nats[:, 1:] - found.nats[:, :1]).reshape(repeats, 60, 2)
    error = difference.std(0) / repeats**0.5
    close = exact_difference.abs() < 8  # larger gaps are certain anyway, and the discretization loses a part of them
    assert int(close.sum()) > 30
    # 0.03 nats: loss of the discretization of time and of pixel values
    z = ((difference.mean(0) - exact_difference).abs() - 0.03).clamp(min=0) / error
    assert float(z[close].max()) < 4.5 and float((z[close] < 2).double().mean()) > 0.9
    # the reported errors: the gap of each estimate to its smallest one
    gap = found.nats - found.nats.amin(1, keepdim=True)
    same = found.nats.argmin(1) == exact.argmin(1).repeat(repeats)
    chosen = (found.error > 0) & (gap < 8) & same[:, None]
    exact_gap = (exact - exact.amin(1, keepdim=True)).repeat(repeats, 1)
    assert float(((gap - exact_gap).abs() < 2 * found.error)[chosen].double().mean()) > 0.93
    q = responsibilities(found.nats.reshape(repeats, 60, 3).mean(0), WEIGHTS)
    assert float((q - bayes(mixture, images)).abs().mean()) < 0.01


def test_common_noise_reduces_the_variance_of_differences():
    """Differences from common random numbers have less than half the variance of independent ones."""
    mixture = gaussians()
    x, _ = sample_images(300, mixture)
    elbo, proposal, config = ELBO(mixture, even_logsnr()), StepProposal.uniform(STEPS), EStepConfig(8, 0, 3)
    one, two, three = (
        component_bounds(elbo, x, Noise(seed, torch.arange(300)), 3, proposal, config).nats for seed in range(3)
    )
    common = (one[:, 0] - one[:, 1]) - (two[:, 0] - two[:, 1])
    independent = (one[:, 0] - two[:, 1]) - (two[:, 0] - three[:, 1])
    assert float(common.var()) < 0.5 * float(independent.var())


def test_antithetic_noise_reduces_the_variance():
    """A noise and its negative have less than a tenth of the variance of two independent noises."""
    mixture = gaussians()
    x, _ = sample_images(200, mixture)
    elbo, proposal, ids = ELBO(mixture, even_logsnr()), StepProposal.uniform(STEPS), torch.arange(200)

    def independent(seed):
        k = proposal.sample(Noise(seed, ids).uniform(Stream.BOUND), 16)
        sums = torch.zeros(200, 2, **D)
        for j in range(16):
            eps = Noise(seed, ids).normal((1, 2, 2), Stream.BOUND, j + 1, like=x)
            sums += (
                torch.stack([elbo.term_at(x, k[:, j], eps, torch.full((200,), c))[0] for c in (0, 1)], 1) * STEPS / 16
            )
        return sums[:, 0] - sums[:, 1]

    def antithetic(seed):
        found = component_bounds(elbo, x, Noise(seed, ids), 2, proposal, EStepConfig(8, 0, 2)).nats
        return found[:, 0] - found[:, 1]

    assert float((antithetic(0) - antithetic(1)).var()) < 0.1 * float((independent(0) - independent(1)).var())


def test_difference_proposal_reduces_the_variance_without_bias():
    """On a schedule most of whose steps are nearly noiseless, against the uniform proposal."""
    mixture = gaussians()
    x, _ = sample_images(400, mixture)
    elbo, uniform, ids = ELBO(mixture, schedules.linear(STEPS)), StepProposal.uniform(STEPS), torch.arange(400)
    proposal = difference_proposal(elbo, x[:64], Noise(9, torch.arange(64)), 3, uniform, 24)
    assert float(proposal.probability.sum()) == pytest.approx(1) and bool((proposal.probability > 0).all())

    def differences(steps, seed, config):
        found = component_bounds(elbo, x, Noise(seed, ids), 3, steps, config).nats
        return found[:, 1] - found[:, 0]

    six, twenty = EStepConfig(6, 0, 3), EStepConfig(20, 0, 3)
    proposed, plain = (differences(steps, 1, six) - differences(steps, 2, six) for steps in (proposal, uniform))
    bias = differences(proposal, 3, twenty) - differences(uniform, 3, twenty)
    assert abs(float(bias.mean())) < 4 * float(bias.std()) / 20
    assert float(proposed.var()) < 0.8 * float(plain.var())


def test_the_bound_without_its_first_steps_is_that_of_the_noisy_image():
    """Steps of probability 0 are never visited; the rest bounds -log p_c(x_t) at the first step that is left."""
    mixture = gaussians()
    x, _ = sample_images(50, mixture)
    late = StepProposal.uniform(STEPS).restricted(torch.arange(1, STEPS + 1) > STEPS // 2)
    k = late.sample(torch.linspace(0, 1 - 1e-12, 50, **D), 30)
    assert int(k.min()) == STEPS // 2 + 1 and int(k.max()) == STEPS
    elbo, ids = ELBO(mixture, even_logsnr()), torch.arange(50)
    found = component_bounds(elbo, x, Noise(0, ids), 3, late, EStepConfig(200, 0, 3)).nats
    # the exact expectation over the noisy images, by Monte Carlo
    level_t = elbo.schedule.at(torch.full((50,), 0.5, **D), like=x)
    noisy = torch.stack([level_t.noisy(x, Noise(s, ids).normal((1, 2, 2), Stream.DATA, like=x)) for s in range(1500)])
    level = elbo.schedule.at(0.5)
    exact = -torch.stack([mixture.log_prob(noisy.flatten(0, 1), level, torch.full((75_000,), c)) for c in range(3)], 1)
    exact = exact.reshape(1500, 50, 3).mean(0)
    difference, exact_difference = found[:, 1:] - found[:, :1], exact[:, 1:] - exact[:, :1]
    assert float((difference - exact_difference).abs().mean()) < 0.05 * float(exact_difference.abs().mean())


def test_pruning_keeps_the_assignments():
    """Two candidates of three components: at most 4 % other assignments, with fewer network evaluations."""
    mixture = gaussians()
    x, _ = sample_images(400, mixture)
    elbo, proposal, ids = ELBO(mixture, even_logsnr()), StepProposal.uniform(STEPS), torch.arange(400)
    calls = []

    def counting(x, level, cond=None, previous=None):
        calls.append(len(x))
        return mixture(x, level, cond, previous)

    whole = component_bounds(elbo, x, Noise(0, ids), 3, proposal, EStepConfig(30, 0, 3))
    config = EStepConfig(10, 20, 2)
    pruned = component_bounds(ELBO(counting, elbo.schedule), x, Noise(0, ids), 3, proposal, config)
    assert sum(calls) == 400 * config.nfe(3) == 400 * 140
    agree = responsibilities(whole.nats, WEIGHTS).argmax(1) == responsibilities(pruned.nats, WEIGHTS).argmax(1)
    assert float(agree.double().mean()) > 0.96  # the noise differs
    assert float((responsibilities(pruned.nats, WEIGHTS) - bayes(mixture, x)).abs().mean()) < 0.04


def test_confident_images_are_not_refined():
    """They keep the estimates of the probes; the others are not affected, and nfe counts the evaluations."""
    mixture = gaussians()
    x, _ = sample_images(60, mixture)
    elbo, proposal, noise = ELBO(mixture, even_logsnr()), StepProposal.uniform(STEPS), Noise(0, torch.arange(60))
    probed = component_bounds(elbo, x, noise, 3, proposal, EStepConfig(4, 0, 3))
    whole, part = (
        component_bounds(elbo, x, noise, 3, proposal, EStepConfig(4, 6, 2, confident)) for confident in (1.0, 0.9)
    )
    refined = torch.softmax(-probed.nats, 1).amax(1) <= 0.9
    assert 10 < int(refined.sum()) < 50
    for name in ("nats", "error"):
        some, every, none = (getattr(bounds, name) for bounds in (part, whole, probed))
        assert torch.allclose(some[refined], every[refined]) and torch.allclose(some[~refined], none[~refined])
    assert torch.equal(part.nfe, torch.where(refined, 48, 24)) and (whole.nfe == 48).all()


def test_offsets_select_candidates_but_are_not_in_the_bounds():
    """A component that only the offsets favour is refined."""
    mixture = gaussians()
    x, _ = sample_images(30, mixture)
    elbo, proposal, noise = ELBO(mixture, even_logsnr(50)), StepProposal.uniform(50), Noise(0, torch.arange(30))
    plain = component_bounds(elbo, x, noise, 3, proposal, EStepConfig(2, 30, 1))
    worst = plain.nats.argmax(1)
    offsets = torch.zeros(30, 3, **D).scatter(1, worst[:, None], -1e6)
    favoured = component_bounds(elbo, x, noise, 3, proposal, EStepConfig(2, 30, 1), offsets)
    whole = component_bounds(elbo, x, noise, 3, proposal, EStepConfig(2, 30, 3))
    at = (torch.arange(30), worst)
    assert torch.allclose(favoured.nats[at], whole.nats[at]) and not torch.allclose(plain.nats[at], whole.nats[at])


def test_estimates_do_not_depend_on_the_batch():
    """The estimate of image i is a function of (seed, i)."""
    mixture = gaussians()
    x, _ = sample_images(20, mixture)
    elbo, proposal, config = ELBO(mixture, even_logsnr(50)), StepProposal.uniform(50), EStepConfig(3, 4, 2)
    whole = component_bounds(elbo, x, Noise(0, torch.arange(20)), 3, proposal, config)
    part = component_bounds(elbo, x[7:9], Noise(0, torch.arange(7, 9)), 3, proposal, config)
    assert torch.allclose(whole.nats[7:9], part.nats, rtol=1e-12, atol=0)
    assert torch.allclose(whole.error[7:9], part.error, rtol=1e-9, atol=1e-9)


def test_em_recovers_the_mixture():
    """From wrong weights, means and variances: the true ones, and assignments within 1 % of Bayes' rule."""
    truth = gaussians()
    x, components = sample_images(2000, truth)
    flat, ids = x.flatten(1), torch.arange(2000)
    pi, means = torch.full((3,), 1 / 3, **D), MEANS + 0.15 * torch.randn(3, 4, **D)
    variances, before = torch.full((3, 4), 0.15, **D), -math.inf
    for _ in range(15):
        elbo = ELBO(GaussianMixture(pi, means, torch.diag_embed(variances)), even_logsnr(60))
        found = component_bounds(elbo, x, Noise(0, ids), 3, StepProposal.uniform(60), EStepConfig(10, 0, 3))
        q = responsibilities(found.nats, pi)
        bound = float(mixture_elbo(q, found.nats, pi).mean())
        assert bound > before - 0.02, "the bound fell"
        before, pi = bound, mixture_weights(q)
        # the M-step: among Gaussian denoisers, the one with these moments has the smallest weighted loss
        means = (q.T @ flat) / q.sum(0)[:, None]
        variances = (q.T @ flat**2) / q.sum(0)[:, None] - means**2
    best = float((bayes(truth, x).argmax(1) == components).double().mean())
    accuracy = float((q.argmax(1) == components).double().mean())
    assert best < 0.99, "the test must not be too easy"
    assert accuracy > best - 0.01
    assert torch.allclose(pi, WEIGHTS, atol=0.03)
    assert torch.allclose(means, MEANS, atol=0.04)


def test_mixture_elbo_is_a_tight_bound():
    """F(q) <= log sum_c pi_c exp(-L_c), with equality for the responsibilities; also for one-hot q."""
    nats = torch.tensor([[3.0, 4.0, 9.0], [700.0, 2.0, 5.0]], **D)
    q = responsibilities(nats, WEIGHTS)
    log_prob = torch.logsumexp(WEIGHTS.log() - nats, 1)
    assert torch.allclose(mixture_elbo(q, nats, WEIGHTS), log_prob)
    for other in (torch.full((2, 3), 1 / 3, **D), torch.eye(3, **D)[[0, 2]], responsibilities(nats, WEIGHTS, 3.0)):
        assert bool((mixture_elbo(other, nats, WEIGHTS) < log_prob).all())
    assert float(responsibilities(torch.tensor([[1.0, math.inf, 2.0]]), WEIGHTS)[0, 1]) == 0


def test_temperature_limits():
    """A high temperature gives the prior, a low one a one-hot vector, and 1 Bayes' rule."""
    nats = torch.tensor([[10.0, 30.0, 12.0]], **D)
    assert torch.allclose(responsibilities(nats, WEIGHTS, 1e9), WEIGHTS[None], atol=1e-6)
    assert float(responsibilities(nats, WEIGHTS, 1e-3).max()) == 1
    joint = WEIGHTS * torch.exp(-nats)
    assert torch.allclose(responsibilities(nats, WEIGHTS), joint / joint.sum())


def test_mixture_weights_are_the_mode_of_the_dirichlet_posterior():
    """By scipy's density; an empty component keeps a positive weight."""
    from scipy import stats

    q = torch.tensor([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0]], **D)
    assert torch.allclose(mixture_weights(q), q.mean(0))
    found = mixture_weights(q, 2.0)
    assert float(found[2]) > 0 and float(found.sum()) == pytest.approx(1)
    density = stats.dirichlet(1 + (q.sum(0) + 1).numpy())
    best = density.logpdf(found.numpy())
    for shift in ([0.01, -0.01, 0], [0, 0.01, -0.01], [-0.01, 0, 0.01]):
        assert density.logpdf(found.numpy() + shift) < best
