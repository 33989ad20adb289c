"""A sampler."""

from dataclasses import dataclass

import fromnoise
from fromnoise.diffusion.samplers import DDIM, Sampler


@fromnoise.register("sampler", "fading")
@dataclass(frozen=True)
class Fading(Sampler):
    """DDIM, whose samples fade to gray.

    Args:
        fade: 0 is DDIM, 1 gives gray images.
    """

    fade: float = 0.5

    default_grid = "karras"
    default_steps = 3

    def __post_init__(self):
        """Check the option."""
        if not 0 <= self.fade <= 1:
            raise ValueError(f"fade={self.fade} must lie in [0, 1]")

    def step(self, denoise, x, level_t, level_s, noise, memory):
        """A step of DDIM."""
        x, prediction, memory = DDIM().step(denoise, x, level_t, level_s, noise, memory)
        return x if level_s.sigma > 0 else (1 - self.fade) * x, prediction, memory
