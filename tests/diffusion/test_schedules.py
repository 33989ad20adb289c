"""Schedules: the tables of the papers, and properties of every schedule."""

from __future__ import annotations

import math

import numpy as np
import paper
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.diffusion import KarrasSchedule, schedules

TABLES = {"linear": schedules.linear, "cosine": schedules.cosine, "sigmoid": schedules.sigmoid}
ANY = [
    schedules.linear(1000),
    schedules.linear(10),
    schedules.cosine(50),
    schedules.sigmoid(200),
    schedules.ContinuousCosine(),
    KarrasSchedule(),
]


@pytest.mark.parametrize("steps", [2, 3, 200, 1000, 4000])
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_papers(name, steps):
    """Betas, alpha and sigma at every step, to 1e-12."""
    table = schedules.linear(steps, rescale=False) if name == "linear" else TABLES[name](steps)
    betas = getattr(paper, f"{name}_betas")(steps)
    assert np.abs(table.betas.numpy() - betas).max() < 1e-12
    level = table.at(torch.arange(steps + 1, dtype=torch.float64) / steps)
    bars = paper.alpha_bar(betas)
    assert np.abs(level.alpha.numpy() ** 2 - bars).max() < 1e-12
    assert np.abs(level.sigma.numpy() ** 2 - (1 - bars)).max() < 1e-12


def test_first_step_is_accurate():
    """1 - A_1 is beta_1 itself: computed as 1 - (1 - beta) it would lose 4 of 16 digits."""
    level = schedules.linear(1000).at(1 / 1000)
    assert float(level.sigma**2) == pytest.approx(1e-4, rel=1e-14)


@pytest.mark.parametrize("steps", [20, 50, 100, 250, 1000, 4000])
def test_rescaled_tables_end_in_noise(steps):
    """The published linear betas at T = 200 end at alpha = 0.36; the rescaled ones below 0.01."""
    assert float(schedules.linear(steps).at(1.0).alpha) < 0.01
    assert float(schedules.cosine(steps).at(1.0).alpha) < 0.01
    if steps == 250:
        assert float(schedules.linear(steps, rescale=False).at(1.0).alpha) > 0.25


def test_linear_schedule_of_200_steps():
    """The tutorial's T = 200 with betas up to 0.02, not rescaled."""
    level = schedules.linear(200, rescale=False).at(1.0)
    assert float(level.alpha**2) == pytest.approx(
        math.exp(sum(math.log1p(-b) for b in paper.linear_betas(200))), rel=1e-12
    )


@pytest.mark.parametrize("steps", [1, 5])
def test_small_tables(steps):
    """T may be 1."""
    for make in TABLES.values():
        table = make(steps)
        assert table.steps == steps
        assert 0 < float(table.at(1.0).sigma) <= 1


@pytest.mark.parametrize("table", ANY, ids=["linear 1000", "linear 10", "cosine", "sigmoid", "continuous", "karras"])
@given(pair=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)))
@settings(max_examples=40, deadline=None)
def test_snr_decreases_and_variance_is_preserved(table, pair):
    """alpha^2 + sigma^2 = 1, logsnr = log(alpha^2 / sigma^2), non-increasing in t, also between table points."""
    early, late = sorted(pair)
    a, b = table.at(early), table.at(late)
    for level in (a, b):
        assert float(level.alpha**2 + level.sigma**2) == pytest.approx(1, abs=1e-14)
        assert float(level.logsnr) == pytest.approx(math.log(float(level.alpha**2 / level.sigma**2)), abs=1e-6)
        assert float(level.snr) == pytest.approx(float(level.alpha**2 / level.sigma**2), rel=1e-6)
    assert float(b.logsnr) <= float(a.logsnr) + 1e-12


def test_log_alpha_is_linear_between_steps():
    """The rate of the SDE is constant within a step (Song et al. 2021, eq. 11)."""
    table = schedules.linear(100)
    low, middle, high = (float(table.at(k / 100).alpha.log()) for k in (30, 30.5, 31))
    assert middle == pytest.approx((low + high) / 2, rel=1e-12)


def test_clean_image_at_t_zero():
    """alpha = 1, sigma = 0, logsnr = inf."""
    for table in ANY:
        level = table.at(0.0)
        assert float(level.alpha) == 1 and float(level.sigma) == 0 and float(level.logsnr) == math.inf


def test_continuous_cosine():
    """alpha = cos(pi t / 2)."""
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    level = schedules.ContinuousCosine().at(t)
    assert torch.allclose(level.alpha, torch.cos(math.pi / 2 * t), rtol=0, atol=1e-12)
    assert schedules.ContinuousCosine().steps is None
    assert float(schedules.ContinuousCosine().at(1.0).logsnr) == -15


def test_time_from_uniform_gives_the_steps_of_a_table():
    """u in [0, 1) is mapped uniformly to 1/T .. 1, including both ends."""
    times = schedules.linear(10).time_from_uniform(torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64))
    steps, counts = torch.unique((times * 10).round(), return_counts=True)
    assert steps.tolist() == list(range(1, 11))
    assert counts.max() - counts.min() <= 1
    continuous = schedules.ContinuousCosine().time_from_uniform(torch.tensor([0.0, 0.999], dtype=torch.float64))
    assert float(continuous[0]) == 1 and 0 < float(continuous[1]) < 0.01


def test_levels_broadcast_to_images():
    """(B,) times with images (B, C, H, W) give scales (B, 1, 1, 1) in the images' dtype; t stays float64."""
    level = schedules.linear(10).at(torch.tensor([0.1, 0.5]), like=torch.zeros(2, 3, 4, 5))
    assert level.alpha.shape == level.sigma.shape == level.logsnr.shape == (2, 1, 1, 1)
    assert level.alpha.dtype == torch.float32 and level.t.dtype == torch.float64


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.1, -0.1], [1.0, 0.1], [0.1, 1.1], [[0.1]], [float("nan")]])
def test_invalid_betas(betas):
    """ValueError from the constructor, not NaN later."""
    with pytest.raises(ValueError, match="beta"):
        schedules.BetaSchedule(torch.tensor(betas, dtype=torch.float64))


def test_beta_of_one_ends_in_pure_noise():
    """alpha = 0 and sigma = 1 exactly."""
    level = schedules.BetaSchedule(torch.tensor([0.1, 0.5, 1.0])).at(1.0)
    assert float(level.alpha) == 0 and float(level.sigma) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_b8_times_of_less_precision_are_those_of_the_steps(dtype):
    """k/T as a float32 tensor is step k, exactly.

    In version 0.1 the log-SNR of 881 of the 1,001 differs in float32.
    """
    table = schedules.linear(1000)
    k = torch.arange(1001)
    exact = table.at(k.double() / 1000)
    rounded = table.at((k.double() / 1000).to(dtype))
    assert torch.equal(rounded.t, exact.t) and torch.equal(rounded.logsnr, exact.logsnr)
    between = torch.tensor(0.12345678, dtype=torch.float32)
    assert float(table.at(between).t) == float(between)


@pytest.mark.parametrize(("steps", "signal"), [(1, 0.9), (20, 5.59e-11), (100, 2.04e-5), (1000, 4.036e-5)])
def test_b8_the_end_of_a_rescaled_linear_table_depends_on_t(steps, signal):
    """A_T, the product of 1 - beta: not the same noise for any T, as its documentation says.

    Version 0.1 said that any T ends in the same noise.
    """
    betas = (1000 / steps * np.linspace(1e-4, 0.02, steps)).clip(max=0.999)
    a = float(torch.exp(schedules.linear(steps).log_a(torch.tensor(1.0, dtype=torch.float64))))
    assert a == pytest.approx(np.prod(1 - betas), rel=1e-9) == pytest.approx(signal, rel=0.01)
    assert "6e-11 at 20" in (schedules.LinearSchedule.__init__.__doc__ or "")
