"""``Denoiser``: what the network receives and how its output is read."""

from __future__ import annotations

import torch
from torch import nn

from fromnoise.diffusion import X0, Denoiser, Eps, schedules


class RecordingNetwork(nn.Module):
    """A network that records its arguments and returns a constant."""

    def __init__(self, channels: int, value: float = 0.0) -> None:
        super().__init__()
        self.channels, self.value = channels, value

    def forward(self, x, clock, cond=None):
        self.arguments = (x, clock, cond)
        return torch.full((len(x), self.channels, *x.shape[2:]), self.value)


def test_timestep_conditioning_counts_from_zero():
    """As in the code of Ho et al.: k = 1 is 0 and k = T is T - 1, for every image of the batch."""
    net = RecordingNetwork(1)
    denoiser, table = Denoiser(net, schedules.linear(1000), Eps()), schedules.linear(1000)
    x = torch.zeros(3, 1, 2, 2)
    denoiser(x, table.at(torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64), like=x))
    assert net.arguments[1].tolist() == [0, 499, 999]
    denoiser(x, table.at(1.0))
    assert net.arguments[1].tolist() == [999, 999, 999] and net.arguments[1].dtype == torch.float32


def test_self_conditioning_doubles_the_channels():
    """The second half is the clipped previous estimate, or zeros without one."""
    net = RecordingNetwork(2)
    denoiser = Denoiser(net, schedules.linear(10), X0(), self_conditioning=True)
    x, level = torch.ones(1, 2, 3, 3), schedules.linear(10).at(0.5)
    denoiser(x, level)
    assert torch.equal(net.arguments[0], torch.cat([x, torch.zeros_like(x)], 1))
    denoiser(x, level, previous=0.5 * x)
    assert torch.equal(net.arguments[0], torch.cat([x, 0.5 * x], 1))
    denoiser(x, level, previous=-3 * x)  # an unclipped estimate
    assert torch.equal(net.arguments[0], torch.cat([x, -x], 1))


def test_learned_variance_is_the_second_half_of_the_output():
    """v in [-1, 1] means f = (v + 1)/2 (Nichol and Dhariwal 2021, eq. 15)."""
    denoiser = Denoiser(RecordingNetwork(4, -0.5), schedules.linear(10), X0(), learned_variance=True)
    prediction = denoiser(torch.ones(1, 2, 3, 3), schedules.linear(10).at(0.5))
    assert prediction.x0.shape == prediction.variance_fraction.shape == (1, 2, 3, 3)
    assert bool((prediction.x0 == -0.5).all()) and bool((prediction.variance_fraction == 0.25).all())
