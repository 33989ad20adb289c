"""Distillation: the feature distance, the loss at exact denoisers, its times, its grid, its sampler."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fromnoise import registry
from fromnoise.diffusion import Denoiser, DiffusionLoss, Noise, schedules
from fromnoise.diffusion.consistency import Consistency
from fromnoise.diffusion.feature_maps import FeatureMaps, feature_distance
from fromnoise.diffusion.samplers.consistency import ConsistencySampler
from fromnoise.diffusion.sampling import given_times, initial_noise, sampling_loop
from fromnoise.diffusion.targets import X0
from fromnoise.diffusion.time_samplers import GivenTimes

SCHEDULE = schedules.linear(1000)


class Point(nn.Module):
    """The exact x0 prediction where all images are one image: its value, from anywhere."""

    def __init__(self, value=0.5):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, t, cond=None):
        return self.value.expand_as(x)


class Gaussian(nn.Module):
    """The exact x0 prediction where pixels are N(mean, std^2): E[x_0 | x_t]."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x, t, cond=None):
        level = SCHEDULE.at(t.double() / 1000, like=x)
        gain = level.alpha * self.std**2 / (level.alpha**2 * self.std**2 + level.sigma**2)
        return self.mean + gain * (x - level.alpha * self.mean)


class Maps(nn.Module):
    """A network with feature maps of two resolutions inside."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU())
        self.coarse = nn.Sequential(nn.Conv2d(4, 8, 2, stride=2), nn.SiLU())
        self.back = nn.Sequential(nn.ConvTranspose2d(8, 4, 2, stride=2), nn.SiLU())
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x, t, cond=None):
        return self.out(self.back(self.coarse(self.fine(x))))


def denoiser(network):
    """With target x0."""
    return Denoiser(network, SCHEDULE, X0())


# ---- the feature distance


def test_feature_distance_in_closed_form():
    """Shifted by k standard deviations of each channel: the mean over the maps of sqrt(k^2 + 1e-4)."""
    maps = [torch.randn(5, 3, 4, 4) * torch.tensor([1.0, 10.0, 0.1])[:, None, None], torch.randn(5, 2, 2, 2)]
    shifts = [k * m.std((0, 2, 3), correction=0, keepdim=True) for k, m in zip((2.0, 0.5), maps, strict=True)]
    found = feature_distance([m + shift for m, shift in zip(maps, shifts, strict=True)], maps)
    torch.testing.assert_close(found, torch.full((5,), 1.25), rtol=0.02, atol=0)
    torch.testing.assert_close(feature_distance(maps, maps), torch.full((5,), 0.01))


def test_feature_maps_are_the_ends_of_each_resolution():
    """Of the blocks, not of single layers; the network has no hooks afterwards."""
    network = Maps()
    maps = FeatureMaps(network)
    found = maps(lambda: network(torch.randn(2, 1, 8, 8), torch.zeros(2)))
    assert maps.names == ["fine", "back", "coarse"]
    assert [tuple(m.shape[1:]) for m in found] == [(4, 8, 8), (8, 4, 4), (4, 8, 8)]
    assert not any(m._forward_hooks for m in network.modules())


def test_a_network_without_feature_maps_is_refused():
    """With the option that does without."""
    network = Point()
    with pytest.raises(ValueError, match="set features 0"):
        FeatureMaps(network)(lambda: network(torch.zeros(2, 1, 8, 8), torch.zeros(2)))


# ---- the loss


def test_an_exact_model_of_one_image_loses_nothing():
    """Its trajectories all end in that image, wherever they start."""
    base = denoiser(Point())
    objective = Consistency(base, features=0.0)
    x0 = torch.full((8, 1, 4, 4), 0.5)
    terms = DiffusionLoss(base, objective, GivenTimes())(x0, torch.arange(8))
    torch.testing.assert_close(terms.weighted, torch.zeros(8), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("end", "drawn_back"), [(0.5, True), (1.0, False)])
def test_a_clipped_prediction_is_drawn_back(end, drawn_back):
    """With clip_x0 the loss is that of the clipped prediction, and its gradient does not vanish beyond the range."""
    base = denoiser(Point(end))
    student = Denoiser(Point(1.5), SCHEDULE, X0(), clip_x0=True)
    terms = DiffusionLoss(student, Consistency(base, huber=0.0, features=0.0), GivenTimes())(
        torch.full((8, 1, 4, 4), end), torch.arange(8)
    )
    torch.testing.assert_close(terms.weighted, torch.full((8,), 1 - end), rtol=0, atol=1e-4)
    terms.weighted.mean().backward()
    assert (float(student.network.value.grad) > 0.1) == drawn_back


def test_the_target_is_the_end_of_the_bases_trajectory():
    """For images N(m, s^2) it is known: m + s (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2); noise alone at t = 1."""
    mean, std = 0.2, 0.4
    base = denoiser(Gaussian(mean, std))
    objective = Consistency(base, solver_steps=200, features=0.0, clip=False)
    level = SCHEDULE.at(torch.tensor([1.0, 0.5, 1.0, 0.26], dtype=torch.float64), like=torch.zeros(4, 1, 4, 4))
    x0, eps = torch.randn(2, 4, 1, 4, 4)
    x = level.noisy(x0, eps)
    expected = mean + std * (x - level.alpha * mean) / (level.alpha**2 * std**2 + level.sigma**2).sqrt()
    torch.testing.assert_close(
        objective._target(x, level, None), expected, rtol=0, atol=0.03
    )  # the last step ends at E[x_0 | x_t]

    class Seen(nn.Module):
        def forward(self, x, t, cond=None):
            self.x = x
            return torch.zeros_like(x)

    student = denoiser(Seen())
    loss = objective.per_image(student, x0, eps, level, None, None)
    assert torch.equal(student.network.x[0], eps[0]) and torch.equal(student.network.x[1], x[1])
    size = expected.square().mean((1, 2, 3))
    torch.testing.assert_close(loss[1::2], ((size + 0.03**2).sqrt() - 0.03)[1::2], rtol=0, atol=0.03)


def test_an_images_target_does_not_depend_on_the_batch():
    """Nor on the times of the other images."""
    base = denoiser(Gaussian(0.0, 0.5))
    objective = Consistency(base, solver_steps=6, features=0.0)
    times = torch.tensor([1.0, 0.35, 1.0, 0.35], dtype=torch.float64)
    x = torch.randn(4, 1, 4, 4)
    together = objective._target(x, SCHEDULE.at(times, like=x), None)
    for i in range(4):
        alone = objective._target(x[i : i + 1], SCHEDULE.at(times[i : i + 1], like=x), None)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-6)


def test_the_features_reach_the_prediction():
    """Their gradient does; none reaches the base."""
    base, student = denoiser(Maps()).requires_grad_(False), denoiser(Maps())
    objective = Consistency(base, solver_steps=2)
    x0, eps = torch.randn(2, 6, 1, 8, 8)
    level = SCHEDULE.at(torch.ones(6, dtype=torch.float64), like=x0)
    with_features = objective.per_image(student, x0, eps, level, None, None)
    without = Consistency(base, solver_steps=2, features=0.0).per_image(student, x0, eps, level, None, None)
    assert bool((with_features > without).all())
    (with_features - without).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in student.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": None}, "fromnoise distill RUN"),
        ({"feature_time": 0.0}, "feature_time=0"),
        ({"solver_steps": 0}, "solver_steps=0"),
        ({"features": -1.0}, "features=-1"),
    ],
)
def test_impossible_options(options, message):
    """One line that names the value."""
    with pytest.raises(ValueError, match=message):
        Consistency(**({"base": denoiser(Point())} | options))


# ---- its times and its sampler


def test_given_times_have_their_share():
    """In equal parts, and the other times cover (0, 1]."""
    sampler = GivenTimes((1.0, 0.35), 0.75)
    times = sampler.time(sampler.sample(Noise(3, torch.arange(4000))), SCHEDULE)
    for t in (1.0, 0.35):
        assert abs(int((times == t).sum()) - 1500) < 5
    others = times[(times != 1.0) & (times != 0.35)]
    assert others.min() < 0.01 and others.max() > 0.99 and abs(float(others.mean()) - 0.5) < 0.01


@pytest.mark.parametrize("options", [{"times": ()}, {"times": (0.0,)}, {"share": 1.5}])
def test_impossible_times_of_training(options):
    """Refused by the constructor."""
    with pytest.raises(ValueError, match="times"):
        GivenTimes(**options)


def test_the_grid_of_given_times():
    """The times themselves for their own number of steps, and points between them for others."""
    own = [float(level.t) for level in given_times(SCHEDULE, 2, (1.0, 0.35))]
    assert own == [1.0, 0.35, 0.0]
    assert [float(v.t) for v in given_times(SCHEDULE, 1, (1.0, 0.35))] == [1.0, 0.0]
    assert [float(v.t) for v in given_times(SCHEDULE, 4, (1.0, 0.35))] == [1.0, 0.675, 0.35, 0.175, 0.0]
    for wrong in ((), (0.5,), (1.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="decrease from 1"):
            given_times(SCHEDULE, 2, wrong)


def test_the_sampler_forgets_what_it_jumped_from():
    """x_s = alpha_s x0_hat + sigma_s z: at an exact model of one image x_s has its mean and the level's variance."""
    model = denoiser(Point())
    noise = Noise(0, torch.arange(4))
    x = initial_noise((1, 32, 32), noise, torch.zeros(()))
    with torch.no_grad():
        steps = list(sampling_loop(model, ConsistencySampler(), given_times(SCHEDULE, 2, (1.0, 0.35)), x, noise))
    level = SCHEDULE.at(0.35)
    assert abs(float(steps[0].x.mean() - level.alpha * 0.5)) < 0.05
    assert abs(float(steps[0].x.std() - level.sigma)) < 0.05
    assert torch.equal(steps[1].x, torch.full((4, 1, 32, 32), 0.5))


def test_registered():
    """Recipes know the parts by name."""
    assert isinstance(registry.build("sampler", "consistency"), ConsistencySampler)
    assert set(registry.options("objective", "consistency")) >= {"solver_steps", "features", "feature_time"}
