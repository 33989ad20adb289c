"""The two steps of variational EM against Bayes' rule on Gaussian mixtures, whose denoisers are exact."""

from __future__ import annotations

import math

import pytest
import torch

from fromnoise.diffusion import Noise, schedules
from fromnoise.diffusion.likelihood.code_length import ELBO, StepProposal
from fromnoise.diffusion.likelihood.e_step import EStepConfig, compare, difference_proposal, evidence, posterior, shares
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.diffusion.rng import Stream

D = {"dtype": torch.float64}
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], **D)
MEANS = torch.tensor([[-0.35, 0.0, 0.1, 0.2], [0.3, 0.25, -0.1, 0.0], [0.2, -0.4, 0.1, 0.3]], **D)
SPREADS = torch.tensor([[0.05, 0.04, 0.06, 0.05], [0.03, 0.06, 0.05, 0.08], [0.06, 0.05, 0.04, 0.03]], **D)
STEPS = 2000


def known() -> GaussianMixture:
    """Three Gaussians of four pixels that overlap."""
    return GaussianMixture(WEIGHTS, MEANS, torch.diag_embed(SPREADS))


def table(steps: int = STEPS) -> schedules.BetaSchedule:
    """Even in log-SNR, from far below the pixels' grid to nothing but noise: no step loses much."""
    survival = torch.sigmoid(torch.linspace(9, -7, steps, **D))
    return schedules.BetaSchedule(1 - survival / torch.cat([torch.ones(1, **D), survival[:-1]]))


def images(n: int, mixture: GaussianMixture, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws on the grid of 8-bit pixels, (n, 1, 2, 2), and whose they are."""
    x, which = mixture.sample(Noise(seed, torch.arange(n)))
    return ((x * 127.5 + 127.5).round() / 127.5 - 1).reshape(n, 1, 2, 2), which


def exact(mixture: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    """Posterior of the clean image's component."""
    return mixture.responsibilities(x, schedules.linear(1000).at(0.0))


def test_bounds_and_posterior_are_exact_within_their_errors():
    """Differences of L_c are those of -log p_c, and q is Bayes' rule, by repeated estimates of 60 images."""
    mixture, repeats = known(), 24
    some, _ = images(60, mixture)
    x, level = some.repeat(repeats, 1, 1, 1), schedules.linear(1000).at(0.0)
    code, noise = ELBO(mixture, table()), Noise(0, torch.arange(len(x)))
    found = compare(code, x, noise, 3, StepProposal.uniform(STEPS), EStepConfig(40, 0, 3))
    truth = -torch.stack([mixture.log_prob(some, level, torch.full((60,), c)) for c in range(3)], 1)
    near = truth[:, 1:] - truth[:, :1]
    each = (found.nats[:, 1:] - found.nats[:, :1]).reshape(repeats, 60, 2)
    error = each.std(0) / repeats**0.5
    close = near.abs() < 8  # of others the estimate is as sure as Bayes' rule, and the steps lose a share of the gap
    assert int(close.sum()) > 30
    off = ((each.mean(0) - near).abs() - 0.03).clamp(min=0) / error  # 0.03 nats: what the steps and the grid lose
    assert float(off[close].max()) < 4.5 and float((off[close] < 2).double().mean()) > 0.9
    # its own error bars: each estimate's gap to its best one
    gap = found.nats - found.nats.amin(1, keepdim=True)
    same = found.nats.argmin(1) == truth.argmin(1).repeat(repeats)
    chosen = (found.error > 0) & (gap < 8) & same[:, None]
    prediction = (truth - truth.amin(1, keepdim=True)).repeat(repeats, 1)
    assert float(((gap - prediction).abs() < 2 * found.error)[chosen].double().mean()) > 0.93
    q = posterior(found.nats.reshape(repeats, 60, 3).mean(0), WEIGHTS)
    assert float((q - exact(mixture, some)).abs().mean()) < 0.01


def test_shared_noise_cancels():
    """Differences under common draws have a small part of the variance that independent draws give them."""
    mixture = known()
    x, _ = images(300, mixture)
    code, plan, search = ELBO(mixture, table()), StepProposal.uniform(STEPS), EStepConfig(8, 0, 3)
    one = compare(code, x, Noise(0, torch.arange(300)), 3, plan, search).nats
    other = compare(code, x, Noise(1, torch.arange(300)), 3, plan, search).nats
    again = compare(code, x, Noise(2, torch.arange(300)), 3, plan, search).nats
    shared = (one[:, 0] - one[:, 1]) - (other[:, 0] - other[:, 1])
    apart = (one[:, 0] - other[:, 1]) - (other[:, 0] - again[:, 1])
    assert float(shared.var()) < 0.5 * float(apart.var())


def test_opposite_noise_cancels():
    """A noise and its negative tell far more than two noises: by exact denoisers, at equal cost."""
    mixture = known()
    x, _ = images(200, mixture)
    code, plan, ids = ELBO(mixture, table()), StepProposal.uniform(STEPS), torch.arange(200)

    def independent(seed):
        k = plan.sample(Noise(seed, ids).uniform(Stream.BOUND), 16)
        sums = torch.zeros(200, 2, **D)
        for j in range(16):
            eps = Noise(seed, ids).normal((1, 2, 2), Stream.BOUND, j + 1, like=x)
            sums += (
                torch.stack([code.term_at(x, k[:, j], eps, torch.full((200,), c))[0] for c in (0, 1)], 1) * STEPS / 16
            )
        return sums[:, 0] - sums[:, 1]

    def opposite(seed):
        found = compare(code, x, Noise(seed, ids), 2, plan, EStepConfig(8, 0, 2)).nats
        return found[:, 0] - found[:, 1]

    assert float((opposite(0) - opposite(1)).var()) < 0.1 * float((independent(0) - independent(1)).var())


def test_looking_where_they_differ():
    """On a table most of whose steps are nearly clean, the plan has the mean it should have and less variance."""
    mixture = known()
    x, _ = images(400, mixture)
    code, even, ids = ELBO(mixture, schedules.linear(STEPS)), StepProposal.uniform(STEPS), torch.arange(400)
    plan = difference_proposal(code, x[:64], Noise(9, torch.arange(64)), 3, even, 24)
    assert float(plan.probability.sum()) == pytest.approx(1) and bool((plan.probability > 0).all())

    def gaps(config, seed, search):
        found = compare(code, x, Noise(seed, ids), 3, config, search).nats
        return found[:, 1] - found[:, 0]

    planned, evenly = (
        gaps(config, 1, EStepConfig(6, 0, 3)) - gaps(config, 2, EStepConfig(6, 0, 3)) for config in (plan, even)
    )
    apart = gaps(plan, 3, EStepConfig(20, 0, 3)) - gaps(even, 3, EStepConfig(20, 0, 3))
    assert abs(float(apart.mean())) < 4 * float(apart.std()) / 20
    assert float(planned.var()) < 0.8 * float(evenly.var())


def test_steps_left_out():
    """What is never visited has no weight: the bounds are those of the steps that stay."""
    mixture = known()
    x, _ = images(50, mixture)
    coarse = StepProposal.uniform(STEPS).restricted(torch.arange(1, STEPS + 1) > STEPS // 2)
    k = coarse.sample(torch.linspace(0, 1 - 1e-12, 50, **D), 30)
    assert int(k.min()) == STEPS // 2 + 1 and int(k.max()) == STEPS
    code, ids = ELBO(mixture, table()), torch.arange(50)
    found = compare(code, x, Noise(0, ids), 3, coarse, EStepConfig(200, 0, 3)).nats
    # what is left bounds the mixture as seen through the noise of the step in the middle
    level_t = code.schedule.at(torch.full((50,), 0.5, **D), like=x)
    noisy = torch.stack([level_t.noisy(x, Noise(s, ids).normal((1, 2, 2), Stream.DATA, like=x)) for s in range(1500)])
    level = code.schedule.at(0.5)
    prediction = -torch.stack(
        [mixture.log_prob(noisy.flatten(0, 1), level, torch.full((75_000,), c)) for c in range(3)], 1
    )
    prediction = prediction.reshape(1500, 50, 3).mean(0)
    gap, want = found[:, 1:] - found[:, :1], prediction[:, 1:] - prediction[:, :1]
    assert float((gap - want).abs().mean()) < 0.05 * float(want.abs().mean())


def test_pruning_keeps_the_answer():
    """Two components of three go on: the same assignments but for one in a hundred, fewer evaluations."""
    mixture = known()
    x, _ = images(400, mixture)
    code, plan, ids, calls = ELBO(mixture, table()), StepProposal.uniform(STEPS), torch.arange(400), []

    def counting(x, level, cond=None, previous=None):
        calls.append(len(x))
        return mixture(x, level, cond, previous)

    whole = compare(code, x, Noise(0, ids), 3, plan, EStepConfig(30, 0, 3))
    search = EStepConfig(10, 20, 2)
    pruned = compare(ELBO(counting, code.schedule), x, Noise(0, ids), 3, plan, search)
    assert sum(calls) == 400 * search.forwards(3) == 400 * 140
    agree = posterior(whole.nats, WEIGHTS).argmax(1) == posterior(pruned.nats, WEIGHTS).argmax(1)
    assert float(agree.double().mean()) > 0.96  # the draws differ
    assert float((posterior(pruned.nats, WEIGHTS) - exact(mixture, x)).abs().mean()) < 0.04


def test_who_is_sure_is_looked_at_no_more():
    """Sure images keep what the first steps gave; of the others nothing changes, and their number is as said."""
    mixture = known()
    x, _ = images(60, mixture)
    code, plan, noise = ELBO(mixture, table()), StepProposal.uniform(STEPS), Noise(0, torch.arange(60))
    first = compare(code, x, noise, 3, plan, EStepConfig(4, 0, 3))
    whole, some = (compare(code, x, noise, 3, plan, EStepConfig(4, 6, 2, sure)) for sure in (1.0, 0.9))
    still = torch.softmax(-first.nats, 1).amax(1) <= 0.9
    assert 10 < int(still.sum()) < 50
    for name in ("nats", "error"):
        left, all_, one = (getattr(c, name) for c in (some, whole, first))
        assert torch.allclose(left[still], all_[still]) and torch.allclose(left[~still], one[~still])
    assert torch.equal(some.forwards, torch.where(still, 48, 24)) and (whole.forwards == 48).all()


def test_who_stays_in_question():
    """What is known besides keeps a component, and is not in its bound."""
    mixture = known()
    x, _ = images(30, mixture)
    code, plan, noise = ELBO(mixture, table(50)), StepProposal.uniform(50), Noise(0, torch.arange(30))
    plain = compare(code, x, noise, 3, plan, EStepConfig(2, 30, 1))
    worst = plain.nats.argmax(1)
    seen = torch.zeros(30, 3, **D).scatter(1, worst[:, None], -1e6)
    kept = compare(code, x, noise, 3, plan, EStepConfig(2, 30, 1), seen)
    whole = compare(code, x, noise, 3, plan, EStepConfig(2, 30, 3))
    at = (torch.arange(30), worst)
    assert torch.allclose(kept.nats[at], whole.nats[at]) and not torch.allclose(plain.nats[at], whole.nats[at])


def test_batches_do_not_matter():
    """Image i's estimate is of (seed, i)."""
    mixture = known()
    x, _ = images(20, mixture)
    code, plan, search = ELBO(mixture, table(50)), StepProposal.uniform(50), EStepConfig(3, 4, 2)
    whole = compare(code, x, Noise(0, torch.arange(20)), 3, plan, search)
    part = compare(code, x[7:9], Noise(0, torch.arange(7, 9)), 3, plan, search)
    assert torch.allclose(whole.nats[7:9], part.nats, rtol=1e-12, atol=0)
    assert torch.allclose(whole.error[7:9], part.error, rtol=1e-9, atol=1e-9)


def test_em_recovers_the_mixture():
    """From wrong shares, means and variances: weights, means, and assignments within 1 % of Bayes' rule."""
    truth = known()
    x, which = images(2000, truth)
    flat, ids = x.flatten(1), torch.arange(2000)
    pi, means = torch.full((3,), 1 / 3, **D), MEANS + 0.15 * torch.randn(3, 4, **D)
    spreads, before = torch.full((3, 4), 0.15, **D), -math.inf
    code = ELBO(truth, table(60))
    for _ in range(15):
        code = ELBO(GaussianMixture(pi, means, torch.diag_embed(spreads)), table(60))
        found = compare(code, x, Noise(0, ids), 3, StepProposal.uniform(60), EStepConfig(10, 0, 3))
        q = posterior(found.nats, pi)
        bound = float(evidence(q, found.nats, pi).mean())
        assert bound > before - 0.02, "the bound fell"
        before, pi = bound, shares(q)
        # of all denoisers with a Gaussian's form, the one of these moments has the least weighted loss
        means = (q.T @ flat) / q.sum(0)[:, None]
        spreads = (q.T @ flat**2) / q.sum(0)[:, None] - means**2
    bayes = float((exact(truth, x).argmax(1) == which).double().mean())
    accuracy = float((q.argmax(1) == which).double().mean())
    assert bayes < 0.99, "the test must not be too easy"
    assert accuracy > bayes - 0.01
    assert torch.allclose(pi, WEIGHTS, atol=0.03)
    assert torch.allclose(means, MEANS, atol=0.04)


def test_the_bound_holds_and_is_tight():
    """F(q) <= log sum_c pi_c exp(-L_c), with equality for the posterior; one-sided q need no care."""
    nats = torch.tensor([[3.0, 4.0, 9.0], [700.0, 2.0, 5.0]], **D)
    q = posterior(nats, WEIGHTS)
    top = torch.logsumexp(WEIGHTS.log() - nats, 1)
    assert torch.allclose(evidence(q, nats, WEIGHTS), top)
    for other in (torch.full((2, 3), 1 / 3, **D), torch.eye(3, **D)[[0, 2]], posterior(nats, WEIGHTS, 3.0)):
        assert bool((evidence(other, nats, WEIGHTS) < top).all())
    assert float(posterior(torch.tensor([[1.0, math.inf, 2.0]]), WEIGHTS)[0, 1]) == 0


def test_temperature():
    """Hot is the prior, cold is one of them; 1 is Bayes."""
    nats = torch.tensor([[10.0, 30.0, 12.0]], **D)
    assert torch.allclose(posterior(nats, WEIGHTS, 1e9), WEIGHTS[None], atol=1e-6)
    assert float(posterior(nats, WEIGHTS, 1e-3).max()) == 1
    joint = WEIGHTS * torch.exp(-nats)
    assert torch.allclose(posterior(nats, WEIGHTS), joint / joint.sum())


def test_shares_are_the_mode_of_dirichlet():
    """Compared with the mode found by scipy's density; an empty component keeps a share."""
    from scipy import stats

    q = torch.tensor([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0]], **D)
    assert torch.allclose(shares(q), q.mean(0))
    found = shares(q, 2.0)
    assert float(found[2]) > 0 and float(found.sum()) == pytest.approx(1)
    density = stats.dirichlet(1 + (q.sum(0) + 1).numpy())
    best = density.logpdf(found.numpy())
    for moved in ([0.01, -0.01, 0], [0, 0.01, -0.01], [-0.01, 0, 0.01]):
        assert density.logpdf(found.numpy() + moved) < best
