"""The probability-flow ODE and the reverse SDE, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from reference_models import COSINE, LIKE, flow, gaussian, mixture, within

from fromnoise.diffusion import DDIM, Noise, Prediction, initial_noise, sampling_loop, schedules
from fromnoise.diffusion.denoiser import score, velocity
from fromnoise.diffusion.likelihood.ode import ProbabilityFlow, RungeKutta, ScipySolver
from fromnoise.diffusion.oracles import EmpiricalDistribution
from fromnoise.diffusion.rng import Stream
from fromnoise.diffusion.samplers import ReverseSDE

D = {"dtype": torch.float64}
TABLE = schedules.linear(1000)


def noisy(true, level, n=12):
    x0, _ = true.sample(Noise(0, torch.arange(n)))
    return level.noisy(x0, Noise(1, torch.arange(n)).normal((2,), Stream.EPS, like=x0))


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_score_is_the_gradient_of_the_log_density(t):
    """By automatic differentiation of the mixture's log density."""
    true, level = mixture(), COSINE.at(t)
    x = noisy(true, level).requires_grad_(True)
    (want,) = torch.autograd.grad(true.log_prob(x, level).sum(), x)
    assert torch.allclose(score(x.detach(), true(x.detach(), level), level), want, rtol=1e-8, atol=1e-8)


def test_velocity_is_the_derivative_of_the_flow():
    """By a finite difference of the closed-form flow of a Gaussian."""
    x, h = torch.tensor([[0.3, -1.0], [1.2, 0.4]], **D), 1e-5
    level_t, up, down = (COSINE.at(COSINE.time_from_logsnr(torch.tensor(2 * (0.7 + d), **D))) for d in (0, h, -h))
    want = (flow(x, level_t, up) - flow(x, level_t, down)) / (2 * h)
    assert torch.allclose(velocity(x, gaussian()(x, level_t), level_t), want, atol=1e-8)


@pytest.mark.parametrize("solver", [RungeKutta(100), ScipySolver(1e-7)], ids=["runge-kutta", "scipy"])
@pytest.mark.parametrize("table", [COSINE, TABLE], ids=["cosine", "linear"])
def test_log_prob_of_a_mixture(table, solver):
    """The exact log density within 1e-3 nats per dimension."""
    true = mixture()
    model = ProbabilityFlow(true, table, solver)
    x = noisy(true, model.clean_level)
    assert float((model.log_prob(x) - true.log_prob(x, model.clean_level)).abs().max()) < 2e-3


def test_log_prob_of_a_class():
    """The condition reaches the network."""
    true = mixture()
    model = ProbabilityFlow(true, COSINE, RungeKutta(100))
    _, cond = true.sample(Noise(0, torch.arange(12)))
    x = noisy(true, model.clean_level)
    difference = true.log_prob(x, model.clean_level, cond) - true.log_prob(x, model.clean_level)
    assert torch.allclose(model.log_prob(x, cond=cond), true.log_prob(x, model.clean_level, cond), atol=2e-3)
    assert float(difference.abs().min()) > 0.1


def test_probes_estimate_the_trace_without_bias():
    """Within 4 standard errors of the exact trace, with less variance for more probes."""
    true, n = mixture(), 400
    model = ProbabilityFlow(true, COSINE, RungeKutta(30))
    x = noisy(true, model.clean_level, 1).expand(n, 2)
    exact = float(model.log_prob(x[:1]))
    one, many = (model.log_prob(x, Noise(4, torch.arange(n)), probes=p) for p in (1, 16))
    within(float(one.mean()), exact, float(one.std()), n, "one probe")
    assert float(many.std()) < 0.5 * float(one.std())


@pytest.mark.parametrize("solver", [RungeKutta(100), ScipySolver(1e-7)], ids=["runge-kutta", "scipy"])
def test_encode_then_decode(solver):
    """The input, within the solver's tolerance; the latents are standard normal."""
    true = mixture()
    model = ProbabilityFlow(true, COSINE, solver)
    x = noisy(true, model.clean_level, 200)
    z = model.encode(x)
    assert float((model.decode(z) - x).abs().max()) < 2e-4
    for i in range(2):
        within(float(z[:, i].mean()), 0, 1, 200, "mean")
        within(float((z[:, i] ** 2).mean()), 1, math.sqrt(2), 200, "variance")


def test_decode_agrees_with_ddim():
    """DDIM(0) is an Euler method for the same flow: in 1,000 steps it ends at the same image."""
    true, ids = mixture(), torch.arange(6)
    model, z = ProbabilityFlow(true, TABLE, RungeKutta(100)), initial_noise((2,), Noise(0, ids), LIKE)
    levels = [TABLE.at(k / 1000) for k in range(1000, 0, -1)]
    *_, last = sampling_loop(true, DDIM(0.0), levels, z, Noise(0, ids))
    assert torch.allclose(last.x, model.decode(z), atol=5e-3)


def test_decode_of_an_empirical_distribution_gives_its_points():
    """Within the noise of the first step."""
    points = torch.tensor([[-0.8, 0.1], [0.5, 0.6], [0.9, -0.7]], **D)
    model = ProbabilityFlow(EmpiricalDistribution(points), COSINE, RungeKutta(200))
    x = model.decode(initial_noise((2,), Noise(0, torch.arange(30)), LIKE))
    nearest = torch.cdist(x, points).min(1)
    assert float(nearest.values.max()) < 0.02 and set(nearest.indices.tolist()) == {0, 1, 2}


def test_runge_kutta_has_order_4():
    """Twice the steps, a sixteenth of the error."""
    x, level_t, level_s = torch.tensor([[0.3, -1.0]], **D), COSINE.at(0.2), COSINE.at(0.8)
    errors = [
        float(
            (
                ProbabilityFlow(gaussian(), COSINE, RungeKutta(n)).transport(x, level_t, level_s)
                - flow(x, level_t, level_s)
            ).norm()
        )
        for n in (16, 32)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.25)


def test_flow_ends_one_step_early_at_zero_terminal_snr():
    """At t = 1 lambda is infinite."""
    betas = schedules.linear(20).betas.clone()
    betas[-1] = 1.0
    model = ProbabilityFlow(mixture(), schedules.BetaSchedule(betas))
    assert float(model.noisy_level.t) == pytest.approx(0.95) and bool(
        model.encode(torch.zeros(1, 2, **D)).isfinite().all()
    )


def test_solver_failure_raises_arithmetic_error():
    """For a field that is not finite."""
    model = ProbabilityFlow(lambda x, level, cond, previous: Prediction(x / 0), COSINE, ScipySolver(1e-3))
    with pytest.raises(ArithmeticError, match="could not be solved"):
        model.encode(torch.ones(1, 2, **D))


def test_reverse_sde_reproduces_a_gaussian():
    """Mean and covariance within 4 standard errors, in 400 steps."""
    n, true = 3000, gaussian()
    ids = torch.arange(n)
    levels = [COSINE.at(t) for t in COSINE.time_from_logsnr(torch.linspace(-10, 9, 400, **D))]
    *_, last = sampling_loop(
        true, ReverseSDE(), [*levels, COSINE.at(0.0)], initial_noise((2,), Noise(0, ids), LIKE), Noise(0, ids)
    )
    for i in range(2):
        m, v = float(true.means[0, i]), float(true.covariances[0, i, i])
        within(float(last.x[:, i].mean()), m, v**0.5, n, "mean")
        within(float(((last.x[:, i] - m) ** 2).mean()), v, 2**0.5 * v, n, "variance")
