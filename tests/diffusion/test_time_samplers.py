"""Samplers of training times."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from fromnoise.diffusion import Noise, schedules, time_samplers

D = {"dtype": torch.float64}


def test_stratified_times_have_no_large_gaps():
    """Any 64 consecutive u leave no gap above 3/64; independent ones leave some above 5/64."""
    for first in (0, 1000, 10**12 + 7, 2**62):
        noise = Noise(1, torch.arange(first, first + 64))
        even = time_samplers.Stratified().sample(noise).sort().values
        gaps = torch.cat([even, even[:1] + 1]).diff()
        assert float(gaps.max()) < 3 / 64
        assert 0 <= float(even[0]) and float(even[-1]) < 1
    assert float(time_samplers.Uniform().sample(noise).sort().values.diff().max()) > 5 / 64


@pytest.mark.parametrize("table", [schedules.ContinuousCosine(), schedules.linear(1000)], ids=["continuous", "table"])
def test_lognormal_levels(table):
    """ln(sigma/alpha) is normal with the given mean and std (Kolmogorov-Smirnov), clamped to the schedule."""
    time_sampler = time_samplers.LogNormal(-0.8, 1.1)
    t = time_sampler.time(time_sampler.sample(Noise(3, torch.arange(4096))), table)
    assert stats.kstest(-table.logsnr(t).numpy() / 2, stats.norm(-0.8, 1.1).cdf).statistic < 0.01
    ends = time_sampler.time(torch.tensor([0.0, 1 - 2**-53], **D), table)
    assert ends.tolist() == pytest.approx([1 / 1000 if table.steps else 0.0, 1.0], abs=1e-5)
    assert float(ends.min()) > 0


@pytest.mark.parametrize("table", [schedules.ContinuousCosine(), schedules.linear(1000)], ids=["continuous", "table"])
def test_lognormal_levels_with_a_share_of_uniform_times(table):
    """A fifth of the times is uniform in t, the others are those of the normal distribution."""
    time_sampler = time_samplers.LogNormal(-0.8, 0.5, uniform=0.2)
    u = time_sampler.sample(Noise(3, torch.arange(8192)))
    t, shared = time_sampler.time(u, table), u < 0.2
    assert float(shared.double().mean()) == pytest.approx(0.2, abs=1e-3)
    assert stats.kstest(t[shared].numpy(), "uniform").statistic < 0.01
    assert stats.kstest(-table.logsnr(t[~shared]).numpy() / 2, stats.norm(-0.8, 0.5).cdf).statistic < 0.01
    assert 0 < float(t.min()) and float(t.max()) <= 1
    with pytest.raises(ValueError, match="uniform=1 must be a probability"):
        time_samplers.LogNormal(uniform=1)


def truth(u):
    """A loss that falls steeply with u."""
    return 5 * torch.exp(-6 * u) + 0.1


def trained(steps=50, images=2000):
    time_sampler = time_samplers.Importance(steps)
    for batch in torch.arange(images).split(50):
        u = time_sampler.sample(Noise(0, batch))
        time_sampler.update(u, truth(u))
    return time_sampler


def test_importance_is_uniform_until_every_step_has_a_loss():
    """After that it samples in proportion to the size of the loss."""
    fresh, noise = time_samplers.Importance(50), Noise(0, torch.arange(1000))
    u = fresh.sample(noise)
    assert torch.equal(fresh.weight(u), torch.ones_like(u))
    assert float((u.sort().values - torch.arange(1000, **D) / 1000).abs().max()) < 5e-3
    u = trained().sample(noise)
    middle = (torch.arange(50, **D) + 0.5) / 50
    frequency = torch.histc(u, 50, 0, 1) / 1000
    assert torch.allclose(frequency, truth(middle) / truth(middle).sum(), atol=6e-3)


def test_importance_is_unbiased_with_less_variance():
    """The weighted mean is the integral; its standard deviation is far below that of uniform times."""
    want = 5 / 6 * (1 - 2.718281828459045**-6) + 0.1
    time_sampler = trained()
    time_from_uniform = []
    for sampler in (time_sampler, time_samplers.Uniform()):
        u = sampler.sample(Noise(7, torch.arange(40_000)))
        each = truth(u) * sampler.weight(u)
        assert float(each.mean()) == pytest.approx(want, abs=4 * float(each.std()) / 200)
        time_from_uniform.append(float(each.std()))
    assert time_from_uniform[0] < 0.1 * time_from_uniform[1]


def test_importance_resumes_from_its_state():
    """Bit for bit; the state is a copy."""
    a, b, noise = trained(), time_samplers.Importance(50), Noise(3, torch.arange(64))
    b.load_state_dict({k: v.clone() for k, v in a.state_dict().items()})
    assert torch.equal(a.sample(noise), b.sample(noise))
    b.update(b.sample(noise), torch.full((64,), 9.0))
    assert not torch.equal(a.sample(noise), b.sample(noise))


def test_importance_follows_a_changing_loss():
    """When the loss of a step decreases, it is soon sampled less."""
    time_sampler = trained()
    u = torch.full((1,), 0.01, **D)
    before = float(time_sampler.weight(u))
    for _ in range(50):
        time_sampler.update(u, torch.full((1,), 0.1))
    assert float(time_sampler.weight(u)) > 5 * before
