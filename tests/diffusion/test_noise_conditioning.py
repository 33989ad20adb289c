"""The network's time input at noise levels, and in recipes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fromnoise as fn
from fromnoise.diffusion import KarrasSchedule, LogSigmaConditioning, TimestepConditioning
from fromnoise.diffusion.sampling import karras


class Network(nn.Module):
    """Remembers its time input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.times: list[float] = []

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        self.times += t.tolist()
        return self.conv(x)


def test_values() -> None:
    """The step from 0, the step in thousandths, and a quarter of the log of sigma/alpha; shaped as the times."""
    schedule = fn.schedules.linear(4000)
    level = schedule.at(torch.tensor([1 / 4000, 0.5, 1.0], dtype=torch.float64), like=torch.zeros(3, 1, 2, 2))
    assert TimestepConditioning(4000).value(level).tolist() == pytest.approx([0, 1999, 3999])
    assert TimestepConditioning(4000, rescale_to=1000).value(level).tolist() == pytest.approx([0, 499.75, 999.75])
    expected = (level.sigma / level.alpha).log().flatten() / 4
    assert LogSigmaConditioning().value(level).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert LogSigmaConditioning().value(schedule.at(0.5)).shape == ()
    with pytest.raises(ValueError, match="1 or more"):
        TimestepConditioning(10, rescale_to=0)


def test_karras_schedule_and_grid() -> None:
    """The noise levels of Karras et al. 2022, eq. 5, with both ends."""
    levels = karras(KarrasSchedule(), 18)
    i = torch.arange(18, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    found = torch.stack([level.sigma / level.alpha for level in levels])
    torch.testing.assert_close(found[:-1], sigmas, rtol=1e-8, atol=0)
    assert float(found[-1]) == 0 and len(levels) == 19
    for options in ({"sigma_min": 0.0}, {"sigma_max": 0.001}, {"rho": 0.0}, {"sigma_max": math.inf}):
        with pytest.raises(ValueError, match="sigma_min"):
            KarrasSchedule(**options)


def test_a_file_keeps_it(tmp_path: Path) -> None:
    """Trained, saved and loaded, the network is given the same input."""
    network = Network()
    denoiser = fn.Denoiser(network, KarrasSchedule(), fn.targets.EDM(), noise_conditioning=LogSigmaConditioning())
    model = fn.Trainer(denoiser, torch.rand(16, 1, 8, 8) * 2 - 1, batch=4, steps=1).run()
    fn.save(model, tmp_path / "model.safetensors")
    loaded = fn.load(tmp_path / "model.safetensors", network=Network())
    assert loaded.model.recipe.diffusion.noise_conditioning.kind == "log-sigma"
    loaded.sample(1, sampler="ddim", steps=2, grid="karras")
    assert loaded.model.denoiser.network.times == pytest.approx([math.log(80) / 4, math.log(0.002) / 4])
