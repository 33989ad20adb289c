"""Schedules that end in pure noise: true black, true white, and the right share of each (Lin et al. 2023)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

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

LINEAR = schedules.linear(1000)
ZERO = schedules.zero_terminal_snr(LINEAR)
SHARE = 0.25


def enforce_zero_terminal_snr(betas):
    """Lin et al. 2023, alg. 1, word for word."""
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
def test_the_listing_of_the_paper(table):
    """The betas; the last is 1."""
    betas = schedules.zero_terminal_snr(table).betas
    assert np.abs(betas.numpy() - enforce_zero_terminal_snr(table.betas.numpy())).max() < 1e-12
    assert float(betas[-1]) == 1


def test_it_ends_in_noise_alone_and_begins_as_before():
    """Alpha is 0 at t = 1, and that of the table at its first step."""
    end = ZERO.at(1.0)
    assert float(end.alpha) == 0 and float(end.sigma) == 1 and float(end.logsnr) == -np.inf
    assert float(ZERO.at(0.001).alpha) == pytest.approx(float(LINEAR.at(0.001).alpha), rel=1e-14)
    assert bool((ZERO.logsnr(torch.linspace(0.001, 1, 997, dtype=torch.float64)).diff() < 0).all())


@pytest.mark.parametrize("target", [V(), PosteriorMean(ZERO)], ids=["v", "mean"])
def test_targets_say_x0_where_there_is_noise_alone(target):
    """Each finds the image again, at the last step too."""
    x0, eps = torch.randn(2, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0.5, 1.0):
        level = ZERO.at(torch.full((5,), t), like=x0)
        out = target.target_from(x0, eps, level)
        assert torch.allclose(target.x0(level.noisy(x0, eps), out, level), x0, atol=1e-9)
        assert bool(out.isfinite().all()) and bool(target.snr_weight(level).isfinite().all())


def flat(table, n=4_000, steps=1000):
    """Mean brightness of flat images drawn with their exact denoiser, a quarter of them white.

    Of flat images of D pixels a deterministic rule moves only the coordinate along (1, ..., 1), where black and white
    are -sqrt(D) and sqrt(D): the rest of the noise goes its own way to 0.
    """
    size = (3 * 64 * 64) ** 0.5
    points = size * torch.tensor([[-1.0], [-1.0], [-1.0], [1.0]], dtype=torch.float64)
    noise = Noise(0, torch.arange(n))
    x = initial_noise((1,), noise, torch.empty(0, dtype=torch.float64))
    for step in sampling_loop(EmpiricalDistribution(points), DDIM(), sampling.uniform(table, steps), x, noise):
        x = step.x
    return x[:, 0] / size


def test_black_and_white_come_back():
    """Of images of 64x64x3, by an exact denoiser, so that only the schedule is judged.

    The plain table biases the mix, from a quarter to more than 0.3; this one does not.
    """
    error = (SHARE * (1 - SHARE) / 4_000) ** 0.5
    mine, plain = flat(ZERO), flat(LINEAR)
    assert float((mine.abs() - 1).abs().max()) < 1e-3
    assert abs(float((mine > 0).float().mean()) - SHARE) < 4 * error
    assert float((plain > 0).float().mean()) > 0.3


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
def test_every_rule_starts_from_noise_alone(sampler):
    """Finite, black or white, and neither all of the one."""
    points = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    noise = Noise(0, torch.arange(100))
    x = initial_noise((1, 4, 4), noise, torch.empty(0))
    for step in sampling_loop(EmpiricalDistribution(points), sampler, sampling.uniform(ZERO, 40), x, noise):
        x = step.x
    means = x.mean((1, 2, 3))
    assert float((means.abs() - 1).abs().max()) < 0.05 and 20 < int((means > 0).sum()) < 80


@pytest.mark.long
def test_a_trained_model_gives_full_contrast(monkeypatch):
    """A small network, 300 steps: with zero terminal SNR the mix is right; plain linear with eps is not."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    sys.modules.pop("contrast", None)
    import contrast

    names = list(contrast.KINDS)
    n, error = 300, (SHARE * (1 - SHARE) / 300) ** 0.5
    plain, mine = (
        contrast.brightness(contrast.learn(contrast.KINDS[names[k]], SHARE, 16, 300), n, steps=25) for k in (0, 2)
    )

    def miss(mean):
        return abs(float((mean > 0).double().mean()) - SHARE)

    assert miss(mine) < 4 * error < miss(plain)
    assert float((mine.abs() - 1).abs().mean()) < 0.15 < float((plain.abs() - 1).abs().mean())
