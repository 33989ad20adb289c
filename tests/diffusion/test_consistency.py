"""Distillation: the energy distance, the loss at exact denoisers, its times, its grid, its sampler."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fromnoise import registry
from fromnoise.diffusion import Denoiser, DiffusionLoss, Noise, schedules
from fromnoise.diffusion.consistency import Consistency
from fromnoise.diffusion.energy_distance import FeatureMaps, energy_distance
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


# ---- the energy distance


def test_energy_distance_of_two_normal_distributions():
    """Against its closed form in one dimension: E|N(m, s^2)| of the differences (Szekely and Rizzo 2013)."""
    count, shift = 1500, 0.7
    x, y = torch.randn(2, count, dtype=torch.float64)
    found = energy_distance((x + shift)[None, :, None], y[None, :, None], torch.arange(count)).mean()
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    s = 2**0.5

    def mean_distance(m):
        folded = s * (2 / torch.pi) ** 0.5 * torch.exp(torch.tensor(-(m**2) / (2 * s**2)))
        return folded + m * (1 - 2 * normal.cdf(torch.tensor(-m / s, dtype=torch.float64)))

    expected = (2 * mean_distance(shift) - 2 * mean_distance(0.0)) / mean_distance(0.0)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.0)


def test_energy_distance_of_one_distribution_has_mean_zero():
    """Unbiased at four vectors: over many draws the mean is within four standard errors of 0, without the own pairs."""
    values = []
    for _ in range(400):
        y = torch.randn(1, 6, 3)
        x = torch.randn(1, 4, 3)
        values.append(float(energy_distance(x, y, torch.tensor([0, 2, 3, 5])).mean()))
    found = torch.tensor(values)
    assert found.mean().abs() < 4 * found.std() / len(found) ** 0.5
    assert found.std() > 0.01


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


def test_the_target_near_the_clean_end_is_that_of_the_base_and_elsewhere_the_models_own():
    """A student that predicts another image than its base loses at t <= 1/intervals only."""
    base, student = denoiser(Point(0.5)), denoiser(Point(-0.25))
    objective = Consistency(base, intervals=4, huber=0.0, features=0.0)
    level = SCHEDULE.at(torch.tensor([0.1, 0.25, 0.3, 1.0], dtype=torch.float64), like=torch.zeros(4, 1, 4, 4))
    x0, eps = torch.full((4, 1, 4, 4), 0.5), torch.randn(4, 1, 4, 4)
    loss = objective.per_image(student, x0, eps, level, None, None)
    torch.testing.assert_close(loss, torch.tensor([0.75, 0.75, 0.0, 0.0]), rtol=0, atol=1e-4)


def test_the_energy_distance_moves_predictions_at_the_given_times_alone():
    """Its gradient reaches predictions at t = 1 and no others."""
    base = denoiser(Maps()).requires_grad_(False)
    objective = Consistency(base, times=(1.0,), features=1.0)
    x0, eps = torch.randn(2, 6, 1, 8, 8)
    level = SCHEDULE.at(torch.tensor([1.0, 0.5, 1.0, 0.2, 1.0, 0.7], dtype=torch.float64), like=x0)
    predicted = torch.randn(6, 1, 8, 8, requires_grad=True)
    objective._energy(predicted, x0, eps, level).sum().backward()
    assert predicted.grad is not None
    moved = predicted.grad.flatten(1).norm(dim=1) > 0
    assert moved.tolist() == [True, False, True, False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": None}, "fromnoise distill RUN"),
        ({"times": (0.0,)}, "times"),
        ({"intervals": 0}, "intervals=0"),
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
    assert set(registry.options("objective", "consistency")) >= {"times", "intervals", "features"}
