"""A noise schedule."""

import math

import torch

import fromnoise
from fromnoise.diffusion import Schedule


@fromnoise.register("schedule", "straight")
class Straight(Schedule):
    """A log-SNR that falls linearly.

    Args:
        start: at t = 0.
        end: at t = 1.
    """

    def __init__(self, start: float = 9.0, end: float = -9.0):
        """Keep the ends."""
        self.start, self.end = start, end

    @property
    def steps(self):
        """Continuous."""
        return None

    def logsnr(self, t):
        """The line; +inf at the clean image."""
        return torch.where(t <= 0, math.inf, self.start + (self.end - self.start) * t.to(torch.float64))

    def time_from_uniform(self, u):
        """Times in (0, 1]."""
        return 1 - u.to(torch.float64)
