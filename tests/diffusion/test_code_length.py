"""The variational bound of a model, its estimates and their error bars, against closed forms."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from reference_models import mixture

from fromnoise.diffusion import Noise, Prediction, schedules
from fromnoise.diffusion.likelihood import elbo
from fromnoise.diffusion.likelihood.code_length import ELBO, StepProposal
from fromnoise.diffusion.likelihood.ode import ProbabilityFlow, RungeKutta
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.diffusion.rng import Stream

D = {"dtype": torch.float64}
TABLE = schedules.cosine(40)


def pixels(n: int, first: int = 0) -> torch.Tensor:
    """8-bit images (n, 1, 2, 2) with independent Gaussian pixels."""
    z = Noise(3, torch.arange(first, first + n)).normal((1, 2, 2), Stream.DATA, like=torch.zeros(1, **D))
    return ((0.3 * z + 0.1).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1


def gaussian(x, level, cond=None, previous=None):
    """The exact denoiser of N(0.1, 0.09) pixels."""
    gain = level.alpha * 0.09 / (level.alpha**2 * 0.09 + level.sigma**2)
    return Prediction(0.1 + gain * (x - level.alpha * 0.1))


def whole(model: ELBO, x0, seeds: int) -> torch.Tensor:
    """The full bound, averaged over noise seeds, (B,)."""
    ids = torch.arange(len(x0))
    return torch.stack(
        [model.prior(x0) + sum(term.nats for term in model.all_terms(x0, Noise(s, ids))) for s in range(seeds)]
    ).mean(0)


def test_all_terms_are_those_of_the_steps():
    """From k = T to 1, each is the KL divergence of its step; their sum bounds the entropy from above."""
    x0, model = pixels(400), ELBO(gaussian, TABLE)
    ids = torch.arange(400)
    terms = list(model.all_terms(x0, Noise(0, ids)))
    assert [term.k for term in terms] == list(range(40, 0, -1))
    k = 17
    level_t, level_s = TABLE.at(k / 40), TABLE.at((k - 1) / 40)
    prediction = gaussian(level_t.noisy(x0, Noise(0, ids).normal((1, 2, 2), Stream.BOUND, k, like=x0)), level_t)
    assert torch.allclose(terms[40 - k].nats, elbo.step_kl(x0, prediction, level_t, level_s), rtol=1e-9)
    assert torch.allclose(terms[40 - k].squared_error, ((x0 - prediction.x0) ** 2).mean((1, 2, 3)))
    total = model.prior(x0) + sum(term.nats for term in terms)
    # entropy of N(0.1, 0.09) discretized to bins of width 2/255, 4 pixels, in nats
    entropy = 4 * (0.5 * math.log(2 * math.pi * math.e * 0.09) - math.log(2 / 255))
    excess, error = float(total.mean()) - entropy, float(total.std()) / 20
    assert -4 * error < excess < 0.2 * entropy


def test_the_gap_of_the_bound_is_proportional_to_one_over_t():
    """For steps uniform in logsnr and the exact denoiser, doubling the steps halves the gap."""
    x0, totals = pixels(3000), []
    for steps in (33, 65, 129):
        survival = torch.sigmoid(torch.linspace(12, -8, steps, **D))
        table = schedules.BetaSchedule(1 - survival / torch.cat([torch.ones(1, **D), survival[:-1]]))
        model = ELBO(gaussian, table)
        # the steps only: prior and decoder do not depend on T
        total = sum(term.nats for term in model.all_terms(x0, Noise(1, torch.arange(3000))) if term.k > 1)
        totals.append(float(total.mean()))
    # mutual information between the ends: 4/2 log((0.09 snr_1 + 1)/(0.09 snr_T + 1)) nats
    limit = 2 * math.log((0.09 * math.exp(12) + 1) / (0.09 * math.exp(-8) + 1))
    coarse, middle, fine = (v - limit for v in totals)
    assert fine > 0 and coarse / middle == pytest.approx(2, rel=0.15) and middle / fine == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("kind", ["uniform", "importance"])
def test_the_error_bar_of_sampled_terms_covers_the_full_sum(kind):
    """In at least 93 % of 400 estimates the mean bound lies within 1.96 standard errors."""
    model = ELBO(gaussian, TABLE)
    truth = float(whole(model, pixels(20_000), 1).mean())
    proposal = StepProposal.uniform(40)
    if kind == "importance":
        proposal = StepProposal.importance(
            model.sampled_terms(pixels(64), Noise(9, torch.arange(64)), proposal, 20), 40
        )
    ids = torch.arange(40_000)
    trials = model.sampled_terms(pixels(40_000, 20_000), Noise(5, ids), proposal, 8).total.reshape(400, 100)
    means, errors = trials.mean(1), trials.std(1) / 10
    assert int(((means - truth).abs() < 1.96 * errors).sum()) >= 372
    if kind == "importance":  # and the error bars are shorter, because the terms are unequal
        even = model.sampled_terms(pixels(4000), Noise(6, ids[:4000]), StepProposal.uniform(40), 8).total
        assert float(errors.mean()) < 0.7 * float(even.std()) / 10


def test_step_proposals():
    """One sample in each of the strata of equal probability; every step has positive probability."""
    proposal = StepProposal(torch.tensor([0.5, 0.25, 0.125, 0.125], **D))
    u = torch.linspace(0, 0.999, 64, **D)
    assert all(sorted(row) == [1, 1, 1, 1, 2, 2, 3, 4] for row in proposal.sample(u, 8).tolist())
    assert set(StepProposal.uniform(7).sample(u, 1).flatten().tolist()) == set(range(1, 8))
    x0, model = pixels(16), ELBO(gaussian, TABLE)
    pilot = model.sampled_terms(x0, Noise(0, torch.arange(16)), StepProposal.uniform(40), 8)
    better = StepProposal.importance(pilot, 40)
    assert float(better.probability.sum()) == pytest.approx(1) and float(better.probability.min()) >= 0.1 / 40
    assert float(better.probability[0]) > 10 / 40  # the decoder term is the largest
    equal = StepProposal.importance(dataclasses.replace(pilot, nats=torch.zeros_like(pilot.nats)), 40)
    assert torch.equal(equal.probability, StepProposal.uniform(40).probability)


def test_estimates_do_not_depend_on_the_batch():
    """The estimate of image i is a function of (seed, i)."""
    x0, model, proposal = pixels(10), ELBO(gaussian, TABLE), StepProposal.uniform(40)
    ids = torch.arange(10)
    one = model.sampled_terms(x0, Noise(2, ids), proposal, 6).total
    parts = [model.sampled_terms(x0[i], Noise(2, ids[i]), proposal, 6).total for i in ids.split(3)]
    assert torch.equal(one, torch.cat(parts))


def test_bound_with_learned_variance():
    """f = None takes the learned variance; a model without one raises ValueError."""
    x0, ids = pixels(50), torch.arange(50)

    def with_variance(f):
        return lambda x, level, cond, previous: Prediction(gaussian(x, level).x0, torch.full_like(x, f))

    for f in (0.0, 0.3):
        learned = sum(t.nats for t in ELBO(with_variance(f), TABLE, None).all_terms(x0, Noise(0, ids)) if t.k > 1)
        fixed = sum(t.nats for t in ELBO(gaussian, TABLE, f).all_terms(x0, Noise(0, ids)) if t.k > 1)
        assert torch.allclose(learned, fixed)
    with pytest.raises(ValueError, match="variance"):
        next(ELBO(gaussian, TABLE, None).all_terms(x0, Noise(0, ids)))


def test_flow_bound_is_tighter_than_the_steps():
    """For the same exact model and decoder the flow's bound is lower, and not below the entropy."""
    x0, ids = pixels(300), torch.arange(300)
    model = ELBO(gaussian, TABLE)
    flow = model.flow_nll(ProbabilityFlow(gaussian, TABLE, RungeKutta(60)), x0, Noise(0, ids), probes=1)
    steps = whole(model, x0, 1)
    entropy = 4 * (0.5 * math.log(2 * math.pi * math.e * 0.09) - math.log(2 / 255))
    gap = steps - flow
    assert float(gap.mean()) > 4 * float(gap.std()) / 300**0.5
    assert float(flow.mean()) > entropy - 4 * float(flow.std()) / 300**0.5


def test_bound_of_a_continuous_schedule_has_1000_steps():
    """By default."""
    model = ELBO(gaussian, schedules.ContinuousCosine())
    assert model.steps == 1000
    x0, ids = pixels(200), torch.arange(200)
    total = model.sampled_terms(x0, Noise(0, ids), StepProposal.uniform(1000), 100).total
    assert bool(total.isfinite().all())


def test_bound_of_vectors():
    """The images may have any shape: here vectors of the plane."""
    true = mixture()
    assert isinstance(true, GaussianMixture)
    x0, _ = true.sample(Noise(0, torch.arange(5)))
    assert bool(ELBO(true, TABLE).prior(x0).gt(0).all())
