"""Schedules with zero terminal SNR (Lin et al. 2024): betas, samplers, and the mean brightness of samples."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fromnoise import config as recipes
from fromnoise.diffusion import (
    DDIM,
    Ancestral,
    Noise,
    PosteriorMean,
    V,
    initial_noise,
    samplers,
    sampling,
    sampling_loop,
    schedules,
)
from fromnoise.diffusion.oracles import EmpiricalDistribution
from fromnoise.utils.errors import UserError

LINEAR = schedules.linear(1000)
ZERO = schedules.zero_terminal_snr(LINEAR)
WHITE_FRACTION = 0.25


def enforce_zero_terminal_snr(betas):
    """Lin et al. 2024, alg. 1, transcribed."""
    alphas = 1 - betas
    alphas_bar = alphas.cumprod(0)
    alphas_bar_sqrt = np.sqrt(alphas_bar)
    alphas_bar_sqrt_0 = alphas_bar_sqrt[0].copy()
    alphas_bar_sqrt_T = alphas_bar_sqrt[-1].copy()
    alphas_bar_sqrt -= alphas_bar_sqrt_T
    alphas_bar_sqrt *= alphas_bar_sqrt_0 / (alphas_bar_sqrt_0 - alphas_bar_sqrt_T)
    alphas_bar = alphas_bar_sqrt**2
    alphas = alphas_bar[1:] / alphas_bar[:-1]
    return 1 - np.concatenate([alphas_bar[0:1], alphas])


@pytest.mark.parametrize("table", [LINEAR, schedules.cosine(50), schedules.sigmoid(200), schedules.linear(2)])
def test_betas_are_those_of_the_papers_listing(table):
    """The last beta is 1."""
    betas = schedules.zero_terminal_snr(table).betas
    assert np.abs(betas.numpy() - enforce_zero_terminal_snr(table.betas.numpy())).max() < 1e-12
    assert float(betas[-1]) == 1


def test_the_last_step_has_no_signal_and_the_first_is_unchanged():
    """alpha is 0 at t = 1, and that of the original table at its first step."""
    end = ZERO.at(1.0)
    assert float(end.alpha) == 0 and float(end.sigma) == 1 and float(end.logsnr) == -np.inf
    assert float(ZERO.at(0.001).alpha) == pytest.approx(float(LINEAR.at(0.001).alpha), rel=1e-14)
    assert bool((ZERO.logsnr(torch.linspace(0.001, 1, 997, dtype=torch.float64)).diff() < 0).all())


@pytest.mark.parametrize("target", [V(), PosteriorMean(ZERO)], ids=["v", "mean"])
def test_v_and_posterior_mean_determine_x0_at_zero_snr(target):
    """x0 inverts target_from, also at t = 1."""
    x0, eps = torch.randn(2, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0.5, 1.0):
        level = ZERO.at(torch.full((5,), t), like=x0)
        out = target.target_from(x0, eps, level)
        assert torch.allclose(target.x0(level.noisy(x0, eps), out, level), x0, atol=1e-9)
        assert bool(out.isfinite().all()) and bool(target.snr_weight(level).isfinite().all())


def mean_brightness(table, n=4_000, steps=1000):
    """Brightness of constant images sampled with their exact denoiser, a quarter of them white.

    For constant images of D pixels only the coordinate along (1, ..., 1) is sampled, where black and white are -sqrt(D)
    and sqrt(D): a deterministic sampler takes the other coordinates to 0 independently.
    """
    size = (3 * 64 * 64) ** 0.5
    points = size * torch.tensor([[-1.0], [-1.0], [-1.0], [1.0]], dtype=torch.float64)
    noise = Noise(0, torch.arange(n))
    x = initial_noise((1,), noise, torch.empty(0, dtype=torch.float64))
    for step in sampling_loop(EmpiricalDistribution(points), DDIM(), sampling.uniform(table, steps), x, noise):
        x = step.x
    return x[:, 0] / size


def test_zero_terminal_snr_reproduces_the_mean_brightness():
    """Of 64x64x3 images with an exact denoiser.

    The original table changes the fraction of white images from a quarter to more than 0.3; zero terminal SNR keeps it.
    """
    standard_error = (WHITE_FRACTION * (1 - WHITE_FRACTION) / 4_000) ** 0.5
    zero, linear = mean_brightness(ZERO), mean_brightness(LINEAR)
    assert float((zero.abs() - 1).abs().max()) < 1e-3
    assert abs(float((zero > 0).float().mean()) - WHITE_FRACTION) < 4 * standard_error
    assert float((linear > 0).float().mean()) > 0.3


@pytest.mark.parametrize(
    "sampler",
    [
        Ancestral(0.0),
        Ancestral(1.0),
        DDIM(1.0),
        samplers.DPMSolverPP(3),
        samplers.DPMSolverPP(2, sde=True),
        samplers.UniPC(2),
        samplers.IPNDM(3),
        samplers.Heun(ZERO, 0.1),
        samplers.PredictorCorrector(Ancestral(0.0)),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_every_sampler_starts_at_zero_terminal_snr(sampler):
    """The samples are black or white, and neither all of one kind."""
    points = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    noise = Noise(0, torch.arange(100))
    x = initial_noise((1, 4, 4), noise, torch.empty(0))
    for step in sampling_loop(EmpiricalDistribution(points), sampler, sampling.uniform(ZERO, 40), x, noise):
        x = step.x
    means = x.mean((1, 2, 3))
    assert float((means.abs() - 1).abs().max()) < 0.05 and 20 < int((means > 0).sum()) < 80


@pytest.mark.long
def test_a_trained_model_reproduces_the_mean_brightness(monkeypatch):
    """A small network, 300 steps: zero terminal SNR keeps the fraction of white images, the linear table does not."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    sys.modules.pop("zero_terminal", None)
    import zero_terminal

    names = list(zero_terminal.VARIANTS)
    n, standard_error = 300, (WHITE_FRACTION * (1 - WHITE_FRACTION) / 300) ** 0.5
    linear, zero = (
        zero_terminal.brightness(
            zero_terminal.train(zero_terminal.VARIANTS[names[k]], WHITE_FRACTION, 16, 300), n, steps=25
        )
        for k in (0, 2)
    )

    def error_of(mean):
        return abs(float((mean > 0).double().mean()) - WHITE_FRACTION)

    assert error_of(zero) < 4 * standard_error < error_of(linear)
    assert float((zero.abs() - 1).abs().mean()) < 0.15 < float((linear.abs() - 1).abs().mean())


def test_b3_lognormal_times_are_refused_with_zero_terminal_snr():
    """They never take t = 1, where sampling starts; the line names the remedy.

    Version 0.1 accepts them (loss.times = lognormal).
    """
    keys = {"diffusion.zero_terminal_snr": True, "diffusion.schedule": "linear", "diffusion.target": "v"}
    keys |= {"sample.grid": "uniform", "loss.weighting": "constant"}
    assert recipes.load("digits", keys | {"loss.time_sampler": "uniform"}).diffusion.zero_terminal_snr
    with pytest.raises(UserError, match="lognormal never takes t = 1.*choose loss.time_sampler uniform"):
        recipes.load("digits", keys | {"loss.time_sampler": "lognormal"})


def test_b8_time_from_logsnr_next_to_the_zero_of_the_table():
    """A finite log-SNR, also one that rounding puts below the last finite level, is not at t = 1.

    Version 0.1 jumped to t = 1.
    """
    table = schedules.zero_terminal_snr(schedules.linear(1000))
    last = table.logsnr(torch.tensor(0.999, dtype=torch.float64))
    for logsnr in (last, last - 1e-9, last - 1e-3):
        assert float(table.time_from_logsnr(logsnr)) == pytest.approx(0.999, abs=1e-9)
    assert float(table.time_from_logsnr(torch.tensor(-math.inf, dtype=torch.float64))) == 1
