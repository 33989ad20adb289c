"""The sampling loop with exact denoisers: the distribution of the samples, and their independence of the batch."""

from __future__ import annotations

import math

import pytest
import torch
from reference_models import LIKE, mixture, within

from fromnoise.diffusion import (
    DDIM,
    Ancestral,
    ClassifierFreeGuidance,
    Clip,
    Noise,
    initial_noise,
    sampling_loop,
    schedules,
)
from fromnoise.diffusion.oracles import EmpiricalDistribution, GaussianMixture
from fromnoise.diffusion.sampling import uniform


def sample(denoise, sampler, levels, ids, shape, seed=0, cond=None, like=LIKE):
    noise = Noise(seed, ids)
    for step in sampling_loop(denoise, sampler, levels, initial_noise(shape, noise, like), noise, cond):
        x = step.x
    return x


def check_mixture(sampler, n: int, steps: int, noise_scale: float = 1.0) -> None:
    """Weights, means and covariances of ``n`` samples within 4 standard errors of the truth."""

    class ScaledNoise(Noise):
        def normal(self, *args, **kwargs):
            return noise_scale * super().normal(*args, **kwargs)

    true, table = mixture(), schedules.linear(1000)
    noise = ScaledNoise(0, torch.arange(n))
    for step in sampling_loop(true, sampler, uniform(table, steps), initial_noise((2,), noise, LIKE), noise):
        x = step.x
    component = true.responsibilities(x, table.at(1e-9)).argmax(1)
    for k in range(3):
        samples, weight = x[component == k], float(true.weights[k])
        within(len(samples) / n, weight, math.sqrt(weight * (1 - weight)), n, f"weight {k}")
        m, s = true.means[k], true.covariances[k]
        for i in range(2):
            within(float(samples[:, i].mean()), float(m[i]), math.sqrt(s[i, i]), len(samples), f"mean {k} {i}")
            for j in range(i + 1):
                got = float(((samples[:, i] - m[i]) * (samples[:, j] - m[j])).mean())
                std = math.sqrt(float(s[i, i] * s[j, j] + s[i, j] ** 2))  # of a product of Gaussians (Isserlis)
                within(got, float(s[i, j]), std, len(samples), f"covariance {k} {i}{j}")


@pytest.mark.parametrize("sampler", [Ancestral(0.0), DDIM(0.0)], ids=str)
def test_a_mixture_is_reproduced(sampler):
    """In 1,000 steps, whose discretization error is below the standard errors of 2,000 samples."""
    check_mixture(sampler, 2_000, 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [Ancestral(1.0), Ancestral(0.5), DDIM(0.5)], ids=str)
def test_a_mixture_is_reproduced_by_other_samplers(sampler):
    """As above, with the standard errors of 3,000 samples."""
    check_mixture(sampler, 3_000, 1_000)


def test_the_check_of_the_mixture_can_fail():
    """Noise a fifth too strong is detected."""
    with pytest.raises(AssertionError, match="standard errors"):
        check_mixture(Ancestral(0.0), 4_000, 250, noise_scale=1.2)


@pytest.mark.parametrize(("steps", "tolerance"), [(10, 0.1), (50, 0.03)])
def test_few_steps_are_approximate(steps, tolerance):
    """Skipping steps keeps the modes, and their weights to a few percent."""
    n, true = 5_000, mixture()
    x = sample(true, Ancestral(0.0), uniform(schedules.linear(1000), steps), torch.arange(n), (2,))
    component = true.responsibilities(x, schedules.linear(1000).at(1e-9)).argmax(1)
    weights = torch.bincount(component, minlength=3) / n
    assert float((weights - true.weights).abs().max()) < tolerance


@pytest.mark.parametrize("sampler", [Ancestral(1.0), DDIM(0.0), DDIM(1.0)], ids=str)
def test_samples_do_not_depend_on_the_batch(sampler):
    """Batches of 1, 7 and 64 give the same bits with an exact denoiser."""
    true, levels, ids = mixture(), uniform(schedules.linear(1000), 15), torch.arange(64)
    for like in (LIKE, LIKE.float()):
        oracle = GaussianMixture(
            true.weights.to(like.dtype), true.means.to(like.dtype), true.covariances.to(like.dtype)
        )
        whole = sample(oracle, sampler, levels, ids, (2,), like=like)
        for size in (1, 7):
            parts = torch.cat([sample(oracle, sampler, levels, part, (2,), like=like) for part in ids.split(size)])
            assert torch.equal(parts, whole)


def test_samples_of_an_empirical_distribution_are_its_points():
    """20 images, each sampled about equally often."""
    g = torch.Generator().manual_seed(0)
    points = torch.rand(20, 1, 4, 4, generator=g, dtype=torch.float64) * 2 - 1
    levels, n = uniform(schedules.linear(1000), 250), 2000
    x = sample(Clip(EmpiricalDistribution(points)), Ancestral(0.0), levels, torch.arange(n), (1, 4, 4))
    distance = torch.cdist(x.flatten(1), points.flatten(1))
    assert float(distance.min(1).values.max()) < 0.05
    counts = torch.bincount(distance.argmin(1), minlength=20)
    assert float(((counts - n / 20) ** 2 / (n / 20)).sum()) < 43.8  # chi-square, 19 degrees, p = 0.001


def test_conditional_samples_have_their_class():
    """cond selects the component; guidance of scale 1 changes nothing."""
    true, levels = mixture(), uniform(schedules.linear(1000), 100)
    cond = torch.arange(300) % 3
    for denoise in (true, ClassifierFreeGuidance(true, 1.0)):
        x = sample(denoise, Ancestral(0.0), levels, torch.arange(300), (2,), cond=cond)
        assert torch.equal(true.responsibilities(x, schedules.linear(1000).at(1e-9)).argmax(1), cond)


def test_the_loop_yields_every_step():
    """A generator of x and the prediction after each step, component can be stopped at any time."""
    true, levels = mixture(), uniform(schedules.linear(1000), 10)
    noise = Noise(0, torch.arange(3))
    steps = []
    for step in sampling_loop(true, DDIM(), levels, initial_noise((2,), noise, LIKE), noise):
        steps.append((step.index, step.total, float(step.level_t.t), float(step.level_s.t)))
        assert step.x.shape == step.prediction.x0.shape == (3, 2)
        if step.index == 4:
            break
    assert steps == [(i, 10, (10 - i) / 10, (9 - i) / 10) for i in range(5)]


def test_the_loop_passes_the_previous_estimate():
    """None first, then the x_0 of the step before (Chen et al. 2023)."""
    true, previous_estimates = mixture(), []

    def spy(x, level, cond=None, previous=None):
        previous_estimates.append(previous)
        return true(x, level)

    noise = Noise(0, torch.arange(2))
    prediction = [
        s.prediction.x0
        for s in sampling_loop(spy, DDIM(), uniform(schedules.linear(10), 4), initial_noise((2,), noise, LIKE), noise)
    ]
    assert previous_estimates[0] is None
    assert all(torch.equal(a, b) for a, b in zip(previous_estimates[1:], prediction[:-1], strict=True))
