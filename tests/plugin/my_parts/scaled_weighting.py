"""A weighting of the loss."""

from dataclasses import dataclass

import fromnoise
from fromnoise.diffusion.losses import Weighting


@fromnoise.register("weighting", "scaled")
@dataclass(frozen=True)
class Scaled(Weighting):
    """The same weight at every noise level.

    Args:
        factor: the weight.
    """

    factor: float = 1.0

    def weight(self, level, target):
        """The factor."""
        return level.alpha.new_full(level.alpha.shape, self.factor)
