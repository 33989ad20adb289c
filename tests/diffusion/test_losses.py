"""Training losses: regression, weightings, the variational bound and the hybrid loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fromnoise import config as recipes
from fromnoise.diffusion import (
    EDM,
    X0,
    Denoiser,
    Eps,
    PosteriorMean,
    Prediction,
    V,
    losses,
    schedules,
    time_samplers,
    weightings,
)
from fromnoise.diffusion.likelihood import elbo
from fromnoise.diffusion.process import posterior_variance, tau
from fromnoise.diffusion.rng import Stream
from fromnoise.utils.errors import UserError

TABLE = schedules.linear(1000)
D = {"dtype": torch.float64}


class FixedNetwork(nn.Module):
    """A network with a given output; counts its calls and records its input."""

    def __init__(self, out) -> None:
        super().__init__()
        self.out, self.calls, self.inputs = out, 0, None

    def forward(self, x, clock, cond=None):
        self.calls, self.inputs = self.calls + 1, (x, cond)
        return self.out(x) if callable(self.out) else self.out


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(3)
    x0 = torch.rand(6, 2, 3, 3, generator=g, **D) * 2 - 1
    eps = torch.randn(6, 2, 3, 3, generator=g, **D)
    t = torch.tensor([1, 3, 40, 500, 900, 1000], **D) / 1000
    return x0, eps, TABLE.at(t, like=x0)


@pytest.mark.parametrize(
    ("metric", "by_hand"),
    [
        (losses.mse, lambda d: d**2),
        (losses.mae, lambda d: abs(d)),
        (losses.huber, lambda d: d**2 / 2 if abs(d) < 1 else abs(d) - 0.5),
    ],
)
def test_distances(metric, by_hand):
    """Elementwise, on both sides of the corner of the Huber loss."""
    a, b = torch.tensor([0.0, 2.0, -3.0, 0.4]), torch.tensor([0.5, 0.0, 1.0, 0.4])
    assert metric(a, b).tolist() == pytest.approx([by_hand(float(d)) for d in a - b])


def test_simple_loss_is_equation_14(images):
    """Mean |eps - output|^2 at x_t = sqrt(A) x_0 + sqrt(1 - A) eps (Ho et al. 2020)."""
    x0, eps, level = images
    net = FixedNetwork(lambda x: 0.3 * x)
    got = losses.Regression().per_image(Denoiser(net, schedules.linear(1000), Eps()), x0, eps, level, None, None)
    noisy = level.alpha * x0 + level.sigma * eps
    assert torch.allclose(got, ((eps - 0.3 * noisy) ** 2).mean((1, 2, 3)))


@pytest.mark.parametrize("target", [Eps(), X0(), V(), EDM(0.5)], ids=lambda t: type(t).__name__)
def test_clipped_predictions_have_no_error_beyond_black_and_white(target):
    """Elementwise the squared error, but 0 without gradient where x_0 = 1 < prediction or x_0 = -1 > prediction."""
    x0 = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 0.2, 0.2], **D).reshape(1, 1, 1, 8)
    predicted = torch.tensor([-1.3, -0.9, 1.2, 1.3, 0.7, -1.1, 1.4, -1.4], **D).reshape(x0.shape)
    eps, level = torch.linspace(-1, 1, 8, **D).reshape(x0.shape), TABLE.at(0.3, like=x0)
    x = level.noisy(x0, eps)
    out = target.target_from(predicted, level.eps(x, predicted), level).requires_grad_()
    denoiser = Denoiser(FixedNetwork(out), TABLE, target, clip_x0=True)
    loss = losses.Regression().per_image(denoiser, x0, eps, level, None, None)
    right = torch.tensor([1, 0, 0, 1, 0, 0, 0, 0], dtype=torch.bool).reshape(x0.shape)
    squares = target.snr_weight(level) * (predicted - x0).square().masked_fill(right, 0.0)
    assert torch.allclose(loss, squares.mean((1, 2, 3)))
    loss.sum().backward()
    assert ((out.grad == 0) == right).all()
    assert torch.equal(denoiser(x, level).x0, target.x0(x, out, level).clamp(-1, 1))


@pytest.mark.parametrize("black", [0.75, 1.0])
def test_the_minimum_with_clipped_predictions_is_the_mean(black):
    """A pixel that is black with this probability, else white; where it is always black, all below -1 is a minimum."""
    x0 = torch.where(torch.arange(100) < 100 * black, -1.0, 1.0).double().reshape(100, 1, 1, 1)
    level, grid = TABLE.at(0.5, like=x0), torch.linspace(-2, 2, 81, **D)
    objective, loss = losses.Regression(), []
    for value in grid:
        denoiser = Denoiser(FixedNetwork(lambda x, v=value: v.expand(len(x), 1, 1, 1)), TABLE, X0(), clip_x0=True)
        loss.append(objective.per_image(denoiser, x0, torch.zeros_like(x0), level, None, None).mean())
    best = grid[torch.stack(loss) <= min(loss) + 1e-12]
    expected = grid[grid <= -1 + 1e-9] if black == 1 else torch.tensor([1 - 2 * black], **D)
    assert torch.allclose(best, expected)


@pytest.mark.parametrize("objective", ["vlb", "hybrid"])
def test_clipped_predictions_need_the_simple_objective(objective):
    keys = {"diffusion.clip_x0": True, "loss.objective": objective, "diffusion.learned_variance": objective == "hybrid"}
    with pytest.raises(UserError, match="clip_x0 does not work with objective"):
        recipes.load("digits", keys)


@pytest.mark.parametrize(
    "weighting", [weightings.MinSNR(5.0), weightings.P2(1.0, 1.0), weightings.P2(0.5, 0.7)], ids=str
)
@pytest.mark.parametrize("target", [Eps(), X0(), V(), EDM(0.4), PosteriorMean(TABLE)], ids=lambda t: type(t).__name__)
def test_weightings_do_not_depend_on_the_target(weighting, target, images):
    """The same error in x_0 has the same loss for every target, that of the papers."""
    x0, eps, level = images
    guess = x0 + 0.1 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0), **D)
    out = target.target_from(guess, level.eps(level.noisy(x0, eps), guess), level)
    got = losses.Regression(losses.mse, weighting).per_image(
        Denoiser(FixedNetwork(out), schedules.linear(1000), target), x0, eps, level, None, None
    )
    snr = (level.alpha / level.sigma).flatten() ** 2
    error = ((guess - x0) ** 2).mean((1, 2, 3))
    if isinstance(weighting, weightings.MinSNR):
        want = torch.minimum(snr, torch.tensor(5.0, **D)) * error  # Hang et al. 2023, sec. 3.4, on x_0
    else:
        want = (weighting.k + snr) ** -weighting.gamma * snr * error  # Choi et al. 2022, eq. 8, on eps
    assert torch.allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("f", [0.0, 1.0])
def test_vlb_is_the_sum_of_the_terms(f):
    """Its mean over k is the sum of the bound's terms without L_T, in nats per dimension (Ho et al. 2020, eq. 5)."""
    table = schedules.linear(20)
    x0 = (torch.randint(0, 256, (1, 1, 3, 3), generator=torch.Generator().manual_seed(0)) / 127.5 - 1).double()
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), **D)
    denoiser = Denoiser(FixedNetwork(lambda x: 0.8 * x), schedules.linear(20), X0())
    total = 0.0
    for k in range(1, 21):
        level_t, level_s = table.at(k / 20), table.at((k - 1) / 20)
        prediction = denoiser(level_t.noisy(x0, eps), level_t)
        if k > 1:
            total += float(elbo.step_kl(x0, Prediction(prediction.x0), level_t, level_s, f))
        else:
            total += float(elbo.decoder_nll(x0, prediction.x0, elbo.decoder_std(table, 20)))
    every = table.at(torch.arange(1, 21, **D) / 20, like=x0.expand(20, -1, -1, -1))
    got = losses.VLB(table, f).per_image(
        denoiser, x0.expand(20, -1, -1, -1), eps.expand(20, -1, -1, -1), every, None, None
    )
    assert float(got.mean()) == pytest.approx(total / 9, rel=1e-9)


def test_vlb_gradient_is_finite_at_every_step():
    """The term that is not selected at k = 1 does not add NaN."""
    out = torch.full((3, 1, 2, 2), 0.1, requires_grad=True)
    x0 = torch.full((3, 1, 2, 2), 1.0)
    level = TABLE.at(torch.tensor([0.001, 0.002, 1.0], **D), like=x0)
    for target in (Eps(), X0(), V()):
        out.grad = None
        denoiser = Denoiser(FixedNetwork(lambda x: out), schedules.linear(1000), target)
        losses.VLB(TABLE).per_image(denoiser, x0, torch.randn_like(x0), level, None, None).sum().backward()
        assert bool(out.grad.isfinite().all())


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine, schedules.sigmoid], ids=lambda f: f.__name__)
def test_vlb_gradient_is_finite_for_an_untrained_network(make):
    """At high noise its x_0 is off by hundreds of decoder standard deviations."""
    table, x0 = make(1000), torch.rand(256, 1, 4, 4) * 2 - 1
    for target in (Eps(), V(), PosteriorMean(table)):
        net = nn.Conv2d(1, 1, 1)
        net.call = net.forward
        net.forward = lambda x, clock, cond, net=net: net.call(x)
        o = losses.DiffusionLoss(Denoiser(net, table, target), losses.VLB(table), time_samplers.Stratified())
        terms = o(x0, torch.arange(256)).weighted
        terms.mean().backward()
        assert bool(terms.isfinite().all()) and bool(net.weight.grad.isfinite().all()), type(target).__name__


def objective(target=None, net=None, table=TABLE, self_conditioning=False, **kw):
    net = net or FixedNetwork(lambda x: torch.zeros_like(x))
    denoiser = Denoiser(net, table, target or Eps(), self_conditioning=self_conditioning)
    return losses.DiffusionLoss(denoiser, losses.Regression(), time_samplers.Uniform(), **kw)


def test_noise_and_time_depend_on_the_position():
    """Other batches or processes give the same loss and time for each image."""
    x0 = torch.zeros(12, 1, 4, 4)
    whole = objective(seed=5)(x0, torch.arange(100, 112))
    parts = [objective(seed=5)(x0[:4], torch.arange(100 + 4 * i, 104 + 4 * i)) for i in range(3)]
    assert torch.equal(whole.unweighted, torch.cat([part.unweighted for part in parts]))
    assert torch.equal(whole.t, torch.cat([part.t for part in parts]))
    assert not torch.equal(whole.unweighted, objective(seed=6)(x0, torch.arange(100, 112)).unweighted)


def test_mean_loss_of_a_zero_network_is_one():
    """E|eps|^2 = 1, within 5 standard errors of 4,000 images of 16 pixels."""
    losses = objective()(torch.zeros(4000, 1, 4, 4), torch.arange(4000))
    assert abs(float(losses.unweighted.mean()) - 1) < 5 * (2 / 64_000) ** 0.5
    assert float(losses.t.min()) >= 0.001 and float(losses.t.max()) <= 1


def test_offset_noise_shifts_whole_channels():
    """Pixels have variance 1 + s^2, channel means s^2 + 1/pixels."""
    o = objective(table=schedules.BetaSchedule(torch.tensor([1.0])), offset_noise=0.5)
    o(torch.zeros(4000, 3, 8, 8), torch.arange(4000))
    x = o.denoiser.network.inputs[0]
    assert float(x.var()) == pytest.approx(1.25, rel=0.03)
    assert float(x.mean((2, 3)).var()) == pytest.approx(0.25 + 1 / 64, rel=0.06)
    means = x.mean((2, 3))
    assert abs(float((means[:, 0] * means[:, 1]).mean())) < 0.03


def test_label_dropout():
    """A tenth in training, none in evaluation; the caller's tensor is unchanged."""
    cond = torch.arange(5000) % 10
    kept = cond.clone()
    o = objective(label_dropout=0.1)
    o(torch.zeros(5000, 1, 1, 1), torch.arange(5000), cond)
    prediction = o.denoiser.network.inputs[1]
    assert abs(float((prediction == -1).double().mean()) - 0.1) < 4 * (0.09 / 5000) ** 0.5
    assert torch.equal(prediction[prediction >= 0], cond[prediction >= 0]) and torch.equal(cond, kept)
    o(torch.zeros(5000, 1, 1, 1), torch.arange(5000), cond, training=False)
    assert torch.equal(o.denoiser.network.inputs[1], cond)


def test_self_conditioning():
    """When on, the second call receives the first call's x_0 without gradient; when off, zeros."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.inputs = nn.Parameter(torch.tensor(0.5)), []

        def forward(self, x, clock, cond=None):
            self.inputs.append(x)
            return self.weight * x[:, :1]

    net = Net()
    o = objective(X0(), net, self_conditioning=True)
    x0 = torch.zeros(2, 1, 2, 2)
    o(x0, torch.arange(2), self_condition=True)
    first, second = net.inputs
    assert torch.equal(first[:, 1:], torch.zeros_like(x0))
    assert torch.allclose(second[:, 1:], (0.5 * first[:, :1]).clamp(-1, 1)) and not second.requires_grad
    o(x0, torch.arange(2), self_condition=False)
    assert len(net.inputs) == 3


def hybrid(f=None):
    return losses.Hybrid(losses.Regression(), losses.VLB(TABLE, f))


def test_hybrid_loss_trains_the_variance_by_the_bound_alone():
    """The mean's gradient is that of L_simple, the variance's that of L_vlb (Nichol and Dhariwal 2021, sec. 3.1)."""
    x0, eps = torch.rand(6, 1, 2, 2) * 2 - 1, torch.randn(6, 1, 2, 2)
    level = TABLE.at(torch.tensor([0.001, 0.002, 0.1, 0.5, 0.9, 1.0], **D), like=x0)
    out = torch.randn(6, 2, 2, 2, requires_grad=True)
    learner = Denoiser(FixedNetwork(lambda x: out), schedules.linear(1000), Eps(), learned_variance=True)
    hybrid().per_image(learner, x0, eps, level, None, None).sum().backward()
    both, out.grad = out.grad, None
    plain = Denoiser(FixedNetwork(lambda x: out[:, :1]), schedules.linear(1000), Eps())
    losses.Regression().per_image(plain, x0, eps, level, None, None).sum().backward()
    assert torch.allclose(both[:, :1], out.grad[:, :1])
    out.grad = None
    losses.VLB(TABLE, None).per_image(learner, x0, eps, level, None, None).sum().backward()
    assert torch.allclose(both[:, 1:], 1e-3 / math.log(2) * out.grad[:, 1:], rtol=1e-4)
    assert bool((both[:, 1:] != 0).any())


def test_the_optimal_variance_minimizes_the_step_kl():
    """For a known error of the mean the KL divergence is smallest at v = s + m^2."""
    level_t, level_s = TABLE.at(0.5), TABLE.at(0.499)
    x0, guess = torch.zeros(1, 1, **D), torch.full((1, 1), 0.05, **D)
    fractions = torch.linspace(0, 1, 401, **D)
    nats = torch.stack([elbo.step_kl(x0, Prediction(guess), level_t, level_s, float(f)) for f in fractions]).flatten()
    small, large = (float(posterior_variance(level_t, level_s, f)) for f in (0.0, 1.0))
    mean_error = (float(level_s.alpha * tau(level_t, level_s)) * 0.05) ** 2
    best = (small + mean_error - small) / (large - small)  # KL(N(m, s) || N(0, v)) is least at v = s + m^2
    want = math.log((small + mean_error) / small) / math.log(large / small) if best < 1 else 1.0
    assert float(fractions[nats.argmin()]) == pytest.approx(min(1.0, want), abs=0.01)


def test_half_of_the_steps_are_self_conditioned():
    """As a function of (seed, step), so that all processes agree."""
    fraction = sum(losses.self_condition_mask(0, step) for step in range(2000)) / 2000
    assert abs(fraction - 0.5) < 4 * 0.5 / 2000**0.5
    assert [losses.self_condition_mask(1, s) for s in range(9)] == [losses.self_condition_mask(1, s) for s in range(9)]


def test_loss_by_time():
    """Bin i holds (i/10, (i + 1)/10]; an empty bin is NaN."""
    got = losses.loss_by_time(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.05, 0.1, 1.0], **D))
    assert got[0] == 2 and got[9] == 5 and bool(got[1:9].isnan().all())


def test_the_network_is_evaluated_once():
    """Without self-conditioning."""
    o = objective()
    o(torch.zeros(4, 1, 2, 2), torch.arange(4))
    assert o.denoiser.network.calls == 1
    assert Stream.TIME != Stream.EPS
