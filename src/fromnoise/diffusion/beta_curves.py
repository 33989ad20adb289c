"""Further beta schedules of other programs: curves from beta_start to beta_end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.diffusion.schedules import BetaSchedule, check_steps
from fromnoise.registry import register


@register("schedule", "scaled-linear")
class ScaledLinearSchedule(BetaSchedule):
    """Betas whose square roots are equally spaced (Rombach et al. 2022; ``scaled_linear`` of diffusers)."""

    def __init__(self, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        """Compute the betas.

        Args:
            steps: T.
            beta_start: beta_1.
            beta_end: beta_T.

        Raises:
            ValueError: an option is out of range.
        """
        self.beta_start, self.beta_end = beta_start, beta_end
        super().__init__(_curve(steps, beta_start, beta_end, lambda a, b, u: (a**0.5 + u * (b**0.5 - a**0.5)) ** 2))


@register("schedule", "sigmoid-betas")
class SigmoidBetaSchedule(BetaSchedule):
    """Betas on a sigmoid: beta_start + (beta_end - beta_start) sigmoid(x), x from -6 to 6 (Xu et al. 2022, "GeoDiff").

    ``sigmoid`` of diffusers. Schedule ``sigmoid`` is another: there A(t) is a sigmoid.
    """

    def __init__(self, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        """Compute the betas.

        Args:
            steps: T.
            beta_start: limit of the betas at the clean end.
            beta_end: limit of the betas at the noisy end.

        Raises:
            ValueError: an option is out of range.
        """
        self.beta_start, self.beta_end = beta_start, beta_end
        super().__init__(_curve(steps, beta_start, beta_end, lambda a, b, u: a + (b - a) * torch.sigmoid(12 * u - 6)))


def _curve(steps: int, start: float, end: float, shape: Callable[[float, float, Tensor], Tensor]) -> Tensor:
    """The curve at u equally spaced from 0 to 1.

    Raises:
        ValueError: an option is out of range.
    """
    check_steps(steps)
    for name, beta in (("beta_start", start), ("beta_end", end)):
        if not 0 < beta < 1:
            raise ValueError(f"{name}={beta} must lie between 0 and 1")
    return shape(start, end, torch.linspace(0, 1, steps, dtype=torch.float64))
