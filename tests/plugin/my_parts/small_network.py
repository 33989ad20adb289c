"""A network."""

import torch
from torch import nn

import fromnoise


@fromnoise.register("network", "small")
class Small(nn.Module):
    """Two convolutions and an embedding of the timestep.

    Args:
        width: channels between the convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, timesteps: int = 1000, width: int = 4):
        """Make the layers."""
        super().__init__()
        self.timesteps = timesteps
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.time = nn.Linear(1, width)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x, t, cond=None):
        """The estimate of the target."""
        h = self.first(x) + self.time(t[:, None].to(x.dtype) / self.timesteps)[:, :, None, None]
        return self.last(torch.relu(h))
