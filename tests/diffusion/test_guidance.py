"""Guidance: wrappers of denoisers, against closed forms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from fromnoise import registry
from fromnoise.diffusion import (
    DDIM,
    Autoguidance,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Clip,
    Denoise,
    IntervalGuidance,
    Noise,
    Prediction,
    Threshold,
    Unconditional,
    initial_noise,
    sampling,
    sampling_loop,
    schedules,
)
from fromnoise.diffusion.oracles import GaussianMixture

LEVEL = schedules.linear(1000).at(0.5)


def conditional(x, level, cond=None, previous=None):
    """x_0 is the class index, 10 for the null class; records the batch sizes."""
    conditional.calls.append(len(x))
    prediction = torch.full((len(x),), -1) if cond is None else cond
    value = torch.where(prediction < 0, 10.0, prediction.float()).reshape(-1, 1).expand_as(x)
    return Prediction(value + (0 if previous is None else previous))


def guided(scale, cond, previous=None):
    conditional.calls = []
    x = torch.zeros(len(cond) if cond is not None else 2, 1)
    return ClassifierFreeGuidance(conditional, scale)(x, LEVEL, cond, previous).x0[:, 0].tolist(), conditional.calls


def test_classifier_free_guidance():
    """u + scale (c - u) (Ho and Salimans 2022), both halves in one call of the network."""
    cond = torch.tensor([2, 3])
    assert guided(3.0, cond) == ([10 + 3 * (2 - 10), 10 + 3 * (3 - 10)], [4])
    assert guided(1.0, cond) == ([2, 3], [2])
    assert guided(0.0, cond) == ([10, 10], [2])
    assert guided(3.0, None) == ([10, 10], [2])
    assert guided(5.0, torch.tensor([-1, 2])) == ([10, 10 + 5 * (2 - 10)], [4])


def test_classifier_free_guidance_passes_the_previous_estimate():
    """To both halves of the batch."""
    values, _ = guided(2.0, torch.tensor([2, 3]), torch.ones(2, 1))
    assert values == [11 + 2 * (3 - 11), 11 + 2 * (4 - 11)]


def test_clip():
    """x_0 is clipped to the pixel range; the learned variance is unchanged."""
    variance_fraction = torch.tensor([0.3])
    wrapped = Clip(lambda x, level, cond=None, previous=None: Prediction(x, variance_fraction))
    prediction = wrapped(torch.tensor([-3.0, -0.5, 0.5, 3.0]), LEVEL)
    assert prediction.x0.tolist() == [-1, -0.5, 0.5, 1] and prediction.variance_fraction is variance_fraction


# ---- closed forms on Gaussians: a denoiser is a score, x_0 = (x + sigma^2 score) / alpha (Tweedie)


def gaussians(means, covariances, weights=(0.5, 0.5)):
    as_tensor = {"dtype": torch.float64}
    return GaussianMixture(
        torch.tensor(weights, **as_tensor), torch.tensor(means, **as_tensor), torch.tensor(covariances, **as_tensor)
    )


TRUE = gaussians([[-1.0, 0.0], [1.0, 0.8]], [[[0.02, 0.01], [0.01, 0.03]], [[0.05, 0.02], [0.02, 0.04]]], (0.3, 0.7))
POINTS = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LEVELS = [schedules.linear(1000).at(t) for t in (0.01, 0.3, 0.7, 1.0)]


def tilted(log_density, x, level):
    """The denoiser of an unnormalized density of noisy images, by automatic differentiation."""
    at = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(log_density(at).sum(), at)
    return (x + level.sigma**2 * score) / level.alpha


@pytest.mark.parametrize("level", LEVELS, ids=lambda v: f"{float(v.t)}")
@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
def test_classifier_free_guidance_is_the_denoiser_of_a_tilted_density(level, scale):
    """p(x | c)^w p(x)^(1 - w) (Ho and Salimans 2022)."""
    cond = torch.arange(50) % 2

    def density(x):
        return scale * TRUE.log_prob(x, level, cond) + (1 - scale) * TRUE.log_prob(x, level)

    got = ClassifierFreeGuidance(TRUE, scale)(POINTS, level, cond).x0
    assert torch.allclose(got, tilted(density, POINTS, level), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", LEVELS, ids=lambda v: f"{float(v.t)}")
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_autoguidance_is_the_denoiser_of_a_tilted_density(level, scale):
    """p_strong^w p_weak^(1 - w) (Karras et al. 2024, eq. 3); the weak model is wider and shifted."""
    weak = gaussians([[0.1, 0.2]], [[[0.8, 0.1], [0.1, 0.9]]], (1.0,))

    def density(x):
        return scale * TRUE.log_prob(x, level) + (1 - scale) * weak.log_prob(x, level)

    got = Autoguidance(TRUE, weak, scale)(POINTS, level).x0
    assert torch.allclose(got, tilted(density, POINTS, level), rtol=1e-9, atol=1e-9)


def test_autoguided_samples_follow_their_closed_form():
    """For N(m, s) and N(0, 1), which is stationary under noise, the guided flow is linear at each level."""
    table, n, scale = schedules.linear(1000), 4000, 2.0
    strong, weak = gaussians([[0.6]], [[[0.25]]], (1.0,)), gaussians([[0.0]], [[[1.0]]], (1.0,))
    noise = Noise(0, torch.arange(n))
    like = torch.empty(0, dtype=torch.float64)
    x = initial_noise((1,), noise, like)
    mean, variance = 0.0, 1.0
    for step in sampling_loop(Autoguidance(strong, weak, scale), DDIM(), sampling.uniform(table, 200), x, noise):
        # the step is linear in x because x_0 = slope x + shift
        h, s = step.level_t, step.level_s
        v1 = float(h.alpha**2 * 0.25 + h.sigma**2)
        slope = scale * float(h.alpha) * 0.25 / v1 + (1 - scale) * float(h.alpha)
        shift = scale * 0.6 * (1 - float(h.alpha) ** 2 * 0.25 / v1)
        keep = float(s.sigma / h.sigma)
        factor = keep + (float(s.alpha) - float(h.alpha) * keep) * slope
        mean = factor * mean + (float(s.alpha) - float(h.alpha) * keep) * shift
        variance = factor**2 * variance
    got = step.x[:, 0]
    assert abs(float(got.mean()) - mean) < 4 * (variance / n) ** 0.5
    assert abs(float(got.var()) - variance) < 4 * variance * (2 / n) ** 0.5
    assert abs(mean - 0.6) > 0.1 and variance < 0.24  # the result differs from the strong model


@pytest.mark.parametrize("level", LEVELS, ids=lambda v: f"{float(v.t)}")
def test_classifier_guidance_with_the_exact_classifier(level):
    """Scale 1 gives the conditional model, scale w equals classifier-free guidance; -1 is not guided.

    Under ``inference_mode``, as in the sampling loop.
    """
    cond = torch.tensor([0, 1, -1, 1, 0] * 10)

    def classifier(x, where):
        joint = [TRUE.log_prob(x, where, torch.full((len(x),), k)) + TRUE.weights[k].log() for k in (0, 1)]
        return torch.stack(joint, 1)

    with torch.inference_mode():
        for scale in (1.0, 3.0):
            got = ClassifierGuidance(Unconditional(TRUE), classifier, scale)(POINTS.clone(), level, cond).x0
            want = ClassifierFreeGuidance(TRUE, scale)(POINTS, level, cond).x0
            assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)


def test_sampling_with_classifier_guidance():
    """The samples have mean and covariance of the requested component."""

    def classifier(x, where):
        joint = [TRUE.log_prob(x, where, torch.full((len(x),), k)) + TRUE.weights[k].log() for k in (0, 1)]
        return torch.stack(joint, 1)

    n = 2000
    noise, cond = Noise(1, torch.arange(n)), torch.ones(n, dtype=torch.int64)
    like = torch.empty(0, dtype=torch.float64)
    with torch.inference_mode():
        denoise = ClassifierGuidance(Unconditional(TRUE), classifier)
        for step in sampling_loop(
            denoise,
            DDIM(),
            sampling.uniform(schedules.linear(1000), 200),
            initial_noise((2,), noise, like),
            noise,
            cond,
        ):
            x = step.x
    errors = (TRUE.covariances[1].diagonal() / n).sqrt()
    assert bool(((x.mean(0) - TRUE.means[1]).abs() < 4 * errors).all())
    assert torch.allclose(torch.cov(x.T), TRUE.covariances[1], atol=4 * 0.05 * (2 / n) ** 0.5)


# ---- rescaling and thresholding


def literal(pos, neg, weight, rescale):
    """Lin et al. 2024, alg. 2, transcribed."""
    cfg = neg + weight * (pos - neg)
    std_pos = pos.std([1, 2, 3], keepdim=True)
    std_cfg = cfg.std([1, 2, 3], keepdim=True)
    factor = std_pos / std_cfg
    factor = rescale * factor + (1 - rescale)
    return cfg * factor


def test_rescaled_guidance():
    """As in the paper's listing; a constant image does not become NaN."""
    pos, neg = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))

    def model(x, level, cond=None, previous=None):
        return Prediction(torch.where(cond.reshape(-1, 1, 1, 1) < 0, torch.cat([neg] * 2), torch.cat([pos] * 2)))

    cond = torch.zeros(4, dtype=torch.int64)
    for rescale in (0.0, 0.7, 1.0):
        got = ClassifierFreeGuidance(model, 4.0, rescale)(torch.zeros(4, 3, 5, 5), LEVEL, cond).x0
        assert torch.allclose(got, literal(pos, neg, 4.0, rescale), atol=1e-6)
    flat = ClassifierFreeGuidance(lambda x, level, cond=None, previous=None: Prediction(x * 0), 4.0, 0.7)
    assert not bool(flat(torch.ones(1, 1, 2, 2), LEVEL, torch.zeros(1, dtype=torch.int64)).x0.isnan().any())


def test_dynamic_thresholding():
    """Each image has its own threshold; images within the range are unchanged (Saharia et al. 2022, sec. 2.3)."""
    in_range = torch.linspace(-0.9, 0.9, 100).reshape(1, 1, 10, 10)
    out_of_range = torch.linspace(-4, 4, 100).reshape(1, 1, 10, 10)
    wrapped = Threshold(lambda x, level, cond=None, previous=None: Prediction(x), 0.9)
    got = wrapped(torch.cat([in_range, out_of_range]), LEVEL).x0
    assert torch.equal(got[:1], in_range)
    s = float(np.quantile(out_of_range.abs().numpy(), 0.9))
    assert torch.allclose(got[1:], out_of_range.clamp(-s, s) / s, atol=1e-6) and float(got.abs().max()) == 1


# ---- intervals and number of evaluations


def test_interval_guidance():
    """Outside the interval only the plain model is evaluated."""
    table, calls = schedules.linear(1000), []

    def named(name):
        def denoise(x, level, cond=None, previous=None):
            calls.append(name)
            return Prediction(x)

        return denoise

    low, high = (float(table.logsnr(torch.tensor(t, dtype=torch.float64))) for t in (0.8, 0.2))
    wrapped = IntervalGuidance(named("guided"), named("plain"), low, high)
    for t in (0.0, 0.1, 0.2, 0.5, 0.8, 0.81, 1.0):
        wrapped(torch.zeros(1, 1), table.at(t))
    assert calls == ["plain", "plain", "guided", "guided", "guided", "plain", "plain"]


def test_each_network_is_evaluated_once_a_step():
    """Classifier-free guidance and autoguidance together: one doubled call of the model, one call of the weak model."""
    calls = []

    def counted(name):
        def denoise(x, level, cond=None, previous=None):
            calls.append((name, len(x)))
            return Prediction(x)

        return denoise

    cond = torch.zeros(3, dtype=torch.int64)
    Clip(Autoguidance(ClassifierFreeGuidance(counted("model"), 2.0), counted("weak"), 2.0))(
        torch.zeros(3, 1), LEVEL, cond
    )
    assert calls == [("model", 6), ("weak", 3)]
    calls.clear()
    Autoguidance(counted("model"), counted("weak"), 1.0)(torch.zeros(3, 1), LEVEL)
    Autoguidance(counted("model"), counted("weak"), 0.0)(torch.zeros(3, 1), LEVEL)
    assert calls == [("model", 3), ("weak", 3)]


def test_no_sampler_imports_guidance():
    """Neither do the sampling loop and its grids."""
    package = Path(schedules.__file__).parent
    for path in (package / "sampling.py", *sorted((package / "samplers").glob("*.py"))):
        imports = [line for line in path.read_text().splitlines() if re.match(r"\s*(from|import) ", line)]
        assert not any("guidance" in line for line in imports), path.name


# ---- the registry


def test_classifier_free_guidance_is_registered():
    """Built by name with its option; an invalid option is a ValueError."""
    assert "classifier-free" in registry.names("guidance")
    assert list(registry.options("guidance", "classifier-free")) == ["rescale"]
    built = registry.build("guidance", "classifier-free", {"rescale": 0.5}, denoise=TRUE, scale=3.0)
    assert built == ClassifierFreeGuidance(TRUE, 3.0, 0.5)
    with pytest.raises(ValueError, match="rescale is 2"):
        registry.build("guidance", "classifier-free", {"rescale": 2.0}, denoise=TRUE, scale=3.0)


def test_a_guidance_registered_outside_the_package(monkeypatch):
    """It is built by name around a denoiser, and sampled with."""
    monkeypatch.setattr(registry, "_COMPONENTS", {k: dict(v) for k, v in registry._COMPONENTS.items()})

    @registry.register("guidance", "test-shift")
    @dataclass(frozen=True)
    class Shift:
        """Shift x_0 by scale times a step."""

        denoise: Denoise
        scale: float
        step: float = 1.0

        def __call__(self, x, level, cond=None, previous=None):
            prediction = self.denoise(x, level, cond, previous)
            return Prediction(prediction.x0 + self.scale * self.step, prediction.variance_fraction)

    guided = registry.build("guidance", "test-shift", {"step": 0.5}, denoise=TRUE, scale=3.0)
    assert torch.equal(guided(POINTS, LEVEL).x0, TRUE(POINTS, LEVEL).x0 + 1.5)
    noise = Noise(0, torch.arange(5))
    levels = sampling.uniform(schedules.linear(100), 10)
    *_, last = sampling_loop(guided, DDIM(), levels, initial_noise((2,), noise, POINTS[:0]), noise)
    assert bool((last.x > TRUE.means.min(0).values + 1).all())
