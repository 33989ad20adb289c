"""Ancestral sampling and DDIM: against the papers, and step by step against diffusers."""

from __future__ import annotations

import numpy as np
import paper
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from reference_models import eps_network

from fromnoise.diffusion import DDIM, Ancestral, Clip, Prediction, schedules
from fromnoise.diffusion.process import posterior_variance
from fromnoise.diffusion.sampling import quadratic, uniform

TABLE, BETAS = schedules.linear(1000), paper.linear_betas(1000)


def denoise(x, level, cond=None, previous=None):
    return Prediction((x - level.sigma * eps_network(x, round(float(level.t) * 1000))) / level.alpha)


def levels(ks):
    return [TABLE.at(k / 1000) for k in ks]


def run_sampler(sampler, ks, x, noises, clip=False):
    """Every state of a sampler on the steps ``ks``."""
    out, memory = [], sampler.start()
    wrapped = Clip(denoise) if clip else denoise
    path = levels(ks)
    for level_t, level_s, z in zip(path[:-1], path[1:], noises, strict=True):
        x, _, memory = sampler.step(lambda y, level: wrapped(y, level), x, level_t, level_s, lambda z=z: z, memory)
        out.append(x)
    return out


def in_double(scheduler):
    """A diffusers scheduler with its float32 tables recomputed in float64."""
    scheduler.betas = torch.from_numpy(BETAS)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


def start_and_noises(steps, dtype):
    g = torch.Generator().manual_seed(steps)
    x = torch.randn(2, 3, 4, 4, generator=g, dtype=dtype)
    return x, [torch.randn(x.shape, generator=g, dtype=dtype) for _ in range(steps)]


def assert_close(theirs, ours, dtype, where):
    """Relative to the largest value; the float32 tables of diffusers lose up to 4 digits in 1 - A near t = 0."""
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert (theirs - ours).abs().max() / theirs.abs().max().clamp(min=1) < tolerance, where


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("steps", [1000, 100, 7])
@pytest.mark.parametrize(("kind", "f"), [("fixed_small", 0.0), ("fixed_small_log", 0.0), ("fixed_large", 1.0)])
def test_ancestral_is_diffusers_ddpm(kind, f, steps, clip, dtype, monkeypatch):
    """Every state of the run, with skipped steps and with clipping."""
    scheduler = DDPMScheduler(1000, variance_type=kind, clip_sample=clip)
    scheduler = in_double(scheduler) if dtype == torch.float64 else scheduler
    scheduler.set_timesteps(steps)
    ks = [int(t) + 1 for t in scheduler.timesteps] + [0]
    y, noises = start_and_noises(steps, dtype)
    ours = run_sampler(Ancestral(f), ks, y, noises, clip)
    for t, z, state in zip(scheduler.timesteps, noises, ours, strict=True):
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, z=z, **k: z)
        y = scheduler.step(eps_network(y, int(t) + 1), t, y).prev_sample
        assert_close(y, state, dtype, int(t))


@pytest.mark.parametrize(("kind", "f"), [("fixed_large_log", 1.0), ("fixed_small", 0.0), ("fixed_large", 1.0)])
def test_variance_is_that_of_diffusers(kind, f):
    """Also for fixed_large_log, whose step() takes the square root of the logarithm and gives NaN (diffusers 0.42)."""
    scheduler = in_double(DDPMScheduler(1000, variance_type=kind))
    for steps in (1000, 50):
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps[:-1].tolist():
            value = float(scheduler._get_variance(t))
            level_t, level_s = levels([t + 1, int(scheduler.previous_timestep(t)) + 1])
            want = np.exp(value) if kind.endswith("log") else value
            assert float(posterior_variance(level_t, level_s, f)) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1000, 50, 8])
def test_ddim_is_diffusers_ddim(eta, steps, clip, dtype):
    """eps follows the clipped x_0. The numbers of steps divide 1,000, so that the last steps are equal."""
    scheduler = DDIMScheduler(1000, clip_sample=clip, set_alpha_to_one=True)
    scheduler = in_double(scheduler) if dtype == torch.float64 else scheduler
    scheduler.set_timesteps(steps)
    ks = [int(t) + 1 for t in scheduler.timesteps] + [0]
    y, noises = start_and_noises(steps, dtype)
    ours = run_sampler(DDIM(eta), ks, y, noises, clip)
    for t, z, state in zip(scheduler.timesteps, noises, ours, strict=True):
        last = int(t) == int(scheduler.timesteps[-1])
        step = scheduler.step(
            eps_network(y, int(t) + 1), t, y, eta=0.0 if last else eta, variance_noise=z, use_clipped_model_output=True
        )
        y = step.prev_sample
        assert_close(y, state, dtype, int(t))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_the_paper(eta):
    """Song et al. 2021, eqs. 12 and 16, between any steps, in float64."""
    ks = [1000, 870, 869, 500, 123, 2, 1, 0]
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    noises = [torch.randn(x.shape, dtype=torch.float64) for _ in ks[1:]]
    states = [x, *run_sampler(DDIM(eta), ks, x, noises)]
    for i, (k, j) in enumerate(zip(ks[:-1], ks[1:], strict=True)):
        eps = eps_network(states[i], k)
        want = paper.ddim(BETAS, k, j, eta, states[i].numpy(), eps.numpy(), noises[i].numpy() if j else 0)
        assert abs(states[i + 1].numpy() - want).max() < 1e-12 * max(1, abs(want).max()), (k, j)


def test_ddim_with_eta_one_equals_ancestral():
    """With the small variance, on any grid."""
    ks = [1000, 700, 300, 299, 10, 1, 0]
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    noises = [torch.randn(x.shape, dtype=torch.float64) for _ in ks[1:]]
    for a, b in zip(run_sampler(DDIM(1.0), ks, x, noises), run_sampler(Ancestral(0.0), ks, x, noises), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


def test_ancestral_step_is_algorithm_2():
    """x_{k-1} = (x_k - beta_k / sqrt(1 - A_k) eps) / sqrt(1 - beta_k) + sigma_k z, with both published sigmas."""
    bars = paper.alpha_bar(BETAS)
    x, z = torch.randn(2, 1, 1, 3, 3, dtype=torch.float64)
    for k in (1000, 400, 3, 2):
        beta, small = BETAS[k - 1], paper.posterior(BETAS, k)[2]
        mean = (x - beta / (1 - bars[k]) ** 0.5 * eps_network(x, k)) / (1 - beta) ** 0.5
        for f, variance in ((0.0, small), (1.0, beta)):
            (got,) = run_sampler(Ancestral(f), [k, k - 1], x, [z])
            assert torch.allclose(got, mean + variance**0.5 * z, rtol=0, atol=1e-12)


def test_variance_none_is_the_learned_one_or_small():
    """Without a learned variance, None is the small one."""

    def learned(x, level):
        return Prediction(torch.zeros_like(x), torch.full_like(x, 0.5))

    level_t, level_s = levels([500, 499])
    x, z = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    a, _, _ = Ancestral(None).step(learned, x, level_t, level_s, lambda: z, None)
    b, _, _ = Ancestral(0.5).step(learned, x, level_t, level_s, lambda: z, None)
    assert torch.equal(a, b)

    def unlearned(x, level):
        return Prediction(torch.zeros_like(x))

    a, _, _ = Ancestral(None).step(unlearned, x, level_t, level_s, lambda: z, None)
    b, _, _ = Ancestral(0.0).step(unlearned, x, level_t, level_s, lambda: z, None)
    assert torch.equal(a, b)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 333, 999, 1000])
def test_grids_are_strictly_decreasing_steps_of_the_table(steps):
    """From T to 0, for any number of steps."""
    for grid in (uniform, quadratic):
        ks = [float(level.t) * 1000 for level in grid(TABLE, steps)]
        assert len(ks) == steps + 1 and ks[0] == 1000 and ks[-1] == 0
        assert all(a > b and abs(a - round(a)) < 1e-9 for a, b in zip(ks[:-1], ks[1:], strict=True))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps(steps):
    """Zero, negative, or more than T."""
    with pytest.raises(ValueError, match="step"):
        uniform(TABLE, steps)


def test_quadratic_grid():
    """tau_i = floor(c i^2) (Song et al. 2021, app. D.2)."""
    ks = [round(float(level.t) * 1000) for level in quadratic(TABLE, 20)]
    assert all(abs(k - 1000 * ((20 - i) / 20) ** 2) <= 1 for i, k in enumerate(ks))
