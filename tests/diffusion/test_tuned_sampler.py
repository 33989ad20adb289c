"""Tuned steps: at first they are DPM-Solver++(2M), no sample depends on its batch, and wrong numbers are refused."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from reference_models import COSINE, LIKE, mixture

from fromnoise.diffusion import Noise, initial_noise, sampling_loop, schedules
from fromnoise.diffusion.samplers import DPMSolverPP, TunedSteps
from fromnoise.diffusion.sampling import logsnr, uniform
from fromnoise.tuning.parameters import StepParameters

TWO = {"times": (1.0, 0.4, 0.0), "network_times": (1.0, 0.4), "keep": (0.5, 0.0), "weights": ((0.5,), (0.1, 0.9))}


def sample(sampler, levels, ids):
    noise = Noise(3, ids)
    for step in sampling_loop(mixture(), sampler, levels, initial_noise((2,), noise, LIKE), noise):
        x = step.x
    return x


@pytest.mark.parametrize("schedule", [schedules.linear(1000), COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_without_deviations_the_steps_are_those_of_dpm_solver(schedule, steps):
    """On any grid, learned numbers begin where the recipe's usual sampler is."""
    for grid in (uniform, logsnr):
        levels = grid(schedule, steps)
        frozen = StepParameters(schedule, levels).frozen()
        got = sample(frozen.sampler(schedule), frozen.levels(schedule), torch.arange(8))
        torch.testing.assert_close(got, sample(DPMSolverPP(2), levels, torch.arange(8)), rtol=1e-9, atol=1e-9)


def test_with_zero_terminal_snr_the_first_step_is_finite():
    """Where lambda is infinite, numbers and gradients are finite."""
    schedule = schedules.zero_terminal_snr(schedules.linear(100))
    parameters = StepParameters(schedule, uniform(schedule, 4))
    sampler, levels = parameters.sampler()
    sample(sampler, levels, torch.arange(4)).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in parameters.parameters())


def test_no_sample_depends_on_its_batch():
    """Sample 5 alone is sample 5 of eight."""
    schedule, steps = schedules.linear(1000), TunedSteps(**TWO)
    eight = sample(steps.sampler(schedule), steps.levels(schedule), torch.arange(8))
    alone = sample(steps.sampler(schedule), steps.levels(schedule), torch.tensor([5]))
    torch.testing.assert_close(eight[5:6], alone, rtol=1e-12, atol=1e-12)


def test_more_steps_than_numbers_are_refused():
    """A sampler that was tuned for two steps makes two."""
    schedule = schedules.linear(1000)
    with pytest.raises(ValueError, match="tuned for 2 steps"):
        sample(TunedSteps(**TWO).sampler(schedule), uniform(schedule, 3), torch.arange(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": (1.0, 0.0)}, "disagree"),
        ({"times": (1.0, 1.0, 0.0)}, "decrease"),
        ({"times": (0.9, 0.4, 0.0)}, "decrease from 1"),
        ({"times": (1.0, float("nan"), 0.0)}, "decrease"),
        ({"network_times": (1.0, 0.0)}, "network times"),
        ({"keep": (float("inf"), 0.0)}, "out of range"),
        ({"weights": ((0.5,), (0.9,))}, "rows"),
        ({"weights": ((0.5,), (0.1, 1e9))}, "out of range"),
        ({"guidance": float("nan")}, "guidance scale"),
        ({"keep": (), "times": (1.0,), "network_times": (), "weights": ()}, "disagree"),
    ],
)
def test_wrong_numbers_are_refused(change, message):
    """A file cannot make a sampler that does not exist."""
    with pytest.raises(ValueError, match=message):
        TunedSteps(**{**TWO, **change})
    assert asdict(TunedSteps(**TWO)) == TWO | {"guidance": 1.0}
