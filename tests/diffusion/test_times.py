"""How times are drawn."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from fromnoise.diffusion import Noise, schedules, time_samplers

D = {"dtype": torch.float64}


def test_stratified_times_are_even():
    """Any 64 neighbours leave no gap of u above 3/64; independent ones leave some above 5/64."""
    for first in (0, 1000, 10**12 + 7, 2**62):
        noise = Noise(1, torch.arange(first, first + 64))
        even = time_samplers.Stratified().sample(noise).sort().values
        gaps = torch.cat([even, even[:1] + 1]).diff()
        assert float(gaps.max()) < 3 / 64
        assert 0 <= float(even[0]) and float(even[-1]) < 1
    assert float(time_samplers.Uniform().sample(noise).sort().values.diff().max()) > 5 / 64


@pytest.mark.parametrize("table", [schedules.ContinuousCosine(), schedules.linear(1000)], ids=["continuous", "table"])
def test_lognormal_levels(table):
    """ln(sigma/alpha) is normal with the mean and deviation asked for (Kolmogorov and Smirnov), within the schedule."""
    draws = time_samplers.LogNormal(-0.8, 1.1)
    t = draws.time(draws.sample(Noise(3, torch.arange(4096))), table)
    assert stats.kstest(-table.logsnr(t).numpy() / 2, "norm", (-0.8, 1.1)).statistic < 0.01
    ends = draws.time(torch.tensor([0.0, 1 - 2**-53], **D), table)
    assert ends.tolist() == pytest.approx([1 / 1000 if table.steps else 0.0, 1.0], abs=1e-5)
    assert float(ends.min()) > 0


def truth(u):
    """A loss that falls steeply with u."""
    return 5 * torch.exp(-6 * u) + 0.1


def learned(steps=50, images=2000):
    draws = time_samplers.Importance(steps)
    for batch in torch.arange(images).split(50):
        u = draws.sample(Noise(0, batch))
        draws.update(u, truth(u))
    return draws


def test_importance_is_uniform_until_it_has_seen_every_step():
    """And then draws in proportion to the size of the loss."""
    fresh, noise = time_samplers.Importance(50), Noise(0, torch.arange(1000))
    u = fresh.sample(noise)
    assert torch.equal(fresh.weight(u), torch.ones_like(u))
    assert float((u.sort().values - torch.arange(1000, **D) / 1000).abs().max()) < 5e-3
    u = learned().sample(noise)
    middle = (torch.arange(50, **D) + 0.5) / 50
    share = torch.histc(u, 50, 0, 1) / 1000
    assert torch.allclose(share, truth(middle) / truth(middle).sum(), atol=6e-3)


def test_importance_has_no_bias_and_less_variance():
    """The weighted mean is the integral; its spread over draws is far below that of uniform times."""
    want = 5 / 6 * (1 - 2.718281828459045**-6) + 0.1
    draws = learned()
    time_from_uniform = []
    for kind in (draws, time_samplers.Uniform()):
        u = kind.sample(Noise(7, torch.arange(40_000)))
        each = truth(u) * kind.weight(u)
        assert float(each.mean()) == pytest.approx(want, abs=4 * float(each.std()) / 200)
        time_from_uniform.append(float(each.std()))
    assert time_from_uniform[0] < 0.1 * time_from_uniform[1]


def test_importance_goes_on_from_its_state():
    """Bit for bit, and the state is a copy."""
    a, b, noise = learned(), time_samplers.Importance(50), Noise(3, torch.arange(64))
    b.load_state_dict({k: v.clone() for k, v in a.state_dict().items()})
    assert torch.equal(a.sample(noise), b.sample(noise))
    b.update(b.sample(noise), torch.full((64,), 9.0))
    assert not torch.equal(a.sample(noise), b.sample(noise))


def test_importance_follows_a_loss_that_changes():
    """After the loss of a step falls, it is soon drawn less."""
    draws = learned()
    u = torch.full((1,), 0.01, **D)
    before = float(draws.weight(u))
    for _ in range(50):
        draws.update(u, torch.full((1,), 0.1))
    assert float(draws.weight(u)) > 5 * before
