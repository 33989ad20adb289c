"""The target of networks of another range of pixel values."""

from __future__ import annotations

import pytest
import torch

from fromnoise.diffusion import schedules
from fromnoise.diffusion.targets import Eps, V
from fromnoise.diffusion.value_range import ValueRange, schedule_for_range

OWN = schedules.linear(1000)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.5, 0.5), (0.0, 255.0)])
@pytest.mark.parametrize("inner", [Eps(), V()], ids=["eps", "v"])
def test_it_is_the_network_s_own_target(low, high, inner):
    """The noisy image in the network's range is a y_0 + s eps, and the clean image follows from its own target."""
    target = ValueRange(low, high, "v" if isinstance(inner, V) else "eps")
    schedule = schedule_for_range(OWN, target)
    g = torch.Generator().manual_seed(0)
    x0, eps = (
        torch.rand(2, 3, 4, 4, generator=g, dtype=torch.float64) * 2 - 1,
        torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64),
    )
    y0 = low + (high - low) * (x0 + 1) / 2
    for k in (1, 10, 500, 999, 1000):
        own, level = OWN.at(k / 1000), schedule.at(k / 1000)
        x = level.noisy(x0, eps)
        torch.testing.assert_close(target.scale_input(x, level), own.noisy(y0, eps))
        out = inner.target_from(y0, eps, own)
        torch.testing.assert_close(target.target_from(x0, eps, level), out)
        torch.testing.assert_close(target.x0(x, out, level), x0)


def test_the_usual_range_changes_nothing():
    """[-1, 1] is the target itself at the same schedule."""
    target = ValueRange(-1.0, 1.0)
    torch.testing.assert_close(schedule_for_range(OWN, target).betas, OWN.betas)
    level, x = OWN.at(0.3), torch.randn(1, 1, 2, 2)
    torch.testing.assert_close(target.x0(x, x, level), Eps().x0(x, x, level))
    torch.testing.assert_close(target.snr_weight(level), Eps().snr_weight(level))


def test_weight_is_the_derivative():
    """(d target / d x_0)^2 at fixed x_t, by finite differences."""
    target = ValueRange(0.0, 1.0, "v")
    level = schedule_for_range(OWN, target).at(0.4)
    x, x0 = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[0.1]], dtype=torch.float64)

    def value(clean):
        return target.target_from(clean, (x - level.alpha * clean) / level.sigma, level)

    slope = (value(x0 + 1e-3) - value(x0 - 1e-3)) / 2e-3
    torch.testing.assert_close(slope**2, target.snr_weight(level).expand(1, 1))


@pytest.mark.parametrize("options", [(1.0, 0.0), (0.0, float("inf")), (0.0, 1.0, "edm")])
def test_impossible_ranges(options):
    """An empty or infinite range, an unknown target."""
    with pytest.raises(ValueError, match="low=|target="):
        ValueRange(*options)
