"""The whole bound, its estimates and their errors, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from test_sampling import mixture

from fromnoise.diffusion import Noise, Prediction, schedules
from fromnoise.diffusion.likelihood import elbo
from fromnoise.diffusion.likelihood.code_length import ELBO, StepProposal
from fromnoise.diffusion.likelihood.ode import ProbabilityFlow, RungeKutta
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.diffusion.rng import Stream

D = {"dtype": torch.float64}
TABLE = schedules.cosine(40)


def pixels(n: int, first: int = 0) -> torch.Tensor:
    """Smooth images of 8 bits, (n, 1, 2, 2): a Gaussian rounded to the pixels' grid."""
    z = Noise(3, torch.arange(first, first + n)).normal((1, 2, 2), Stream.DATA, like=torch.zeros(1, **D))
    return ((0.3 * z + 0.1).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1


def gaussian(x, level, cond=None, previous=None):
    """The exact denoiser of N(0.1, 0.09) pixels."""
    gain = level.alpha * 0.09 / (level.alpha**2 * 0.09 + level.sigma**2)
    return Prediction(0.1 + gain * (x - level.alpha * 0.1))


def whole(model: ELBO, x0, seeds: int) -> torch.Tensor:
    """The mean of the full sum over several noises, (B,)."""
    ids = torch.arange(len(x0))
    return torch.stack(
        [model.prior(x0) + sum(term.nats for term in model.all_terms(x0, Noise(s, ids))) for s in range(seeds)]
    ).mean(0)


def test_walk_visits_every_term():
    """From T to 1; each is the formula of its step at its own noise, and the sum bounds the entropy from above."""
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
    # -log2 of N(0.1, 0.09) over bins 2/255 wide, of its own samples
    entropy = 4 * (0.5 * math.log(2 * math.pi * math.e * 0.09) - math.log(2 / 255))
    excess, error = float(total.mean()) - entropy, float(total.std()) / 20
    assert -4 * error < excess < 0.2 * entropy


def test_the_bound_tends_to_the_entropy_as_one_over_t():
    """With steps even in logsnr and the exact denoiser, what is lost halves where the steps double."""
    x0, lost = pixels(3000), []
    for steps in (33, 65, 129):
        survival = torch.sigmoid(torch.linspace(12, -8, steps, **D))
        table = schedules.BetaSchedule(1 - survival / torch.cat([torch.ones(1, **D), survival[:-1]]))
        model = ELBO(gaussian, table)
        # the steps alone: prior and decoder do not depend on their number
        total = sum(term.nats for term in model.all_terms(x0, Noise(1, torch.arange(3000))) if term.k > 1)
        lost.append(float(total.mean()))
    # information between the ends: 4/2 log((0.09 snr_1 + 1)/(0.09 snr_T + 1)) nats
    limit = 2 * math.log((0.09 * math.exp(12) + 1) / (0.09 * math.exp(-8) + 1))
    coarse, middle, fine = (v - limit for v in lost)
    assert fine > 0 and coarse / middle == pytest.approx(2, rel=0.15) and middle / fine == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("kind", ["uniform", "importance"])
def test_the_error_bar_covers_the_full_sum(kind):
    """In at least 93 % of 400 estimates the mean bound lies within 1.96 standard errors of the estimate."""
    model = ELBO(gaussian, TABLE)
    truth = float(whole(model, pixels(20_000), 1).mean())
    plan = StepProposal.uniform(40)
    if kind == "importance":
        plan = StepProposal.importance(model.sampled_terms(pixels(64), Noise(9, torch.arange(64)), plan, 20), 40)
    ids = torch.arange(40_000)
    trials = model.sampled_terms(pixels(40_000, 20_000), Noise(5, ids), plan, 8).total.reshape(400, 100)
    means, errors = trials.mean(1), trials.std(1) / 10
    assert int(((means - truth).abs() < 1.96 * errors).sum()) >= 372
    if kind == "importance":  # and the bars are shorter: the terms are that unequal
        even = model.sampled_terms(pixels(4000), Noise(6, ids[:4000]), StepProposal.uniform(40), 8).total
        assert float(errors.mean()) < 0.7 * float(even.std()) / 10


def test_plans():
    """Strata of equal probability, one draw in each; every step can come."""
    plan = StepProposal(torch.tensor([0.5, 0.25, 0.125, 0.125], **D))
    u = torch.linspace(0, 0.999, 64, **D)
    assert all(sorted(row) == [1, 1, 1, 1, 2, 2, 3, 4] for row in plan.sample(u, 8).tolist())
    assert set(StepProposal.uniform(7).sample(u, 1).flatten().tolist()) == set(range(1, 8))
    x0, model = pixels(16), ELBO(gaussian, TABLE)
    visits = model.sampled_terms(x0, Noise(0, torch.arange(16)), StepProposal.uniform(40), 8)
    better = StepProposal.importance(visits, 40)
    assert float(better.probability.sum()) == pytest.approx(1) and float(better.probability.min()) >= 0.1 / 40
    assert float(better.probability[0]) > 10 / 40  # the decoder's term is the largest


def test_estimates_do_not_depend_on_the_batch():
    """Image i's are of (seed, i)."""
    x0, model, plan = pixels(10), ELBO(gaussian, TABLE), StepProposal.uniform(40)
    ids = torch.arange(10)
    one = model.sampled_terms(x0, Noise(2, ids), plan, 6).total
    parts = [model.sampled_terms(x0[i], Noise(2, ids[i]), plan, 6).total for i in ids.split(3)]
    assert torch.equal(one, torch.cat(parts))


def test_learned_variance():
    """A model that says its spread is measured with it; one that does not is refused."""
    x0, ids = pixels(50), torch.arange(50)

    def says(f):
        return lambda x, level, cond, previous: Prediction(gaussian(x, level).x0, torch.full_like(x, f))

    for f in (0.0, 0.3):
        learned = sum(t.nats for t in ELBO(says(f), TABLE, None).all_terms(x0, Noise(0, ids)) if t.k > 1)
        fixed = sum(t.nats for t in ELBO(gaussian, TABLE, f).all_terms(x0, Noise(0, ids)) if t.k > 1)
        assert torch.allclose(learned, fixed)
    with pytest.raises(ValueError, match="variance"):
        next(ELBO(gaussian, TABLE, None).all_terms(x0, Noise(0, ids)))


def test_the_flow_loses_less_than_the_steps():
    """Of the same exact model, with the same decoder, as the flow has no steps: and no less than the entropy."""
    x0, ids = pixels(300), torch.arange(300)
    model = ELBO(gaussian, TABLE)
    flow = model.flow_nll(ProbabilityFlow(gaussian, TABLE, RungeKutta(60)), x0, Noise(0, ids), probes=1)
    steps = whole(model, x0, 1)
    entropy = 4 * (0.5 * math.log(2 * math.pi * math.e * 0.09) - math.log(2 / 255))
    gap = steps - flow
    assert float(gap.mean()) > 4 * float(gap.std()) / 300**0.5
    assert float(flow.mean()) > entropy - 4 * float(flow.std()) / 300**0.5


def test_a_continuous_schedule_is_cut_into_steps():
    """A thousand, by default."""
    model = ELBO(gaussian, schedules.ContinuousCosine())
    assert model.steps == 1000
    x0, ids = pixels(200), torch.arange(200)
    total = model.sampled_terms(x0, Noise(0, ids), StepProposal.uniform(1000), 100).total
    assert bool(total.isfinite().all())


def test_mixture_of_no_pixels():
    """Any denoiser will do, in any shape: the mixture of the plane."""
    true = mixture()
    assert isinstance(true, GaussianMixture)
    x0, _ = true.sample(Noise(0, torch.arange(5)))
    assert bool(ELBO(true, TABLE).prior(x0).gt(0).all())
