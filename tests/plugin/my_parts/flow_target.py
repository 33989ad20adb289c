"""A target of the network."""

from dataclasses import dataclass

import fromnoise
from fromnoise.diffusion import Target


@fromnoise.register("target", "scaled-flow")
@dataclass(frozen=True)
class ScaledFlow(Target):
    """The velocity eps - x_0 of flow matching, scaled.

    Args:
        scale: of the velocity.
    """

    scale: float = 1.0

    def target_from(self, x0, eps, level):
        """scale (eps - x_0)."""  # noqa: D403
        return self.scale * (eps - x0)

    def x0(self, x, out, level):
        """(x_t - sigma u / scale) / (alpha + sigma)."""
        return (x - level.sigma * out / self.scale) / (level.alpha + level.sigma)

    def snr_weight(self, level):
        """(scale (1 + alpha / sigma))^2."""
        return (self.scale * (1 + level.alpha / level.sigma)) ** 2
