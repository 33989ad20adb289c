"""What the multistep samplers share: past predictions on the axis of lambda.

One evaluation a step. With lambda = log(alpha / sigma) = logsnr / 2 and h = lambda_s - lambda_t the solution of the
probability-flow ODE is (Lu et al. 2022, "DPM-Solver++", eq. 9)

    x_s = sigma_s/sigma_t x_t + alpha_s (integral of e^(lambda - lambda_s) x_0(lambda) over lambda from t to s)

and the samplers differ in how they interpolate x_0(lambda) from past predictions. A constant x_0 gives DDIM(0).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.samplers.base import Sampler
from fromnoise.diffusion.schedules import NoiseLevel


@dataclass(frozen=True)
class PastPrediction:
    """A prediction of an earlier step.

    Attributes:
        level: where the denoiser was evaluated.
        value: the predicted x_0, or eps, as the sampler needs it, (B, C, H, W).
    """

    level: NoiseLevel
    value: Tensor


class MultistepSampler(Sampler):
    """A sampler of an order, which the first steps, without past predictions, do not reach.

    Attributes:
        order: of its solution.
    """

    order: int

    @property
    def min_steps(self) -> int:
        """The order."""
        return self.order


def lambda_difference(level_t: NoiseLevel, level_s: NoiseLevel) -> Tensor:
    """lambda_s - lambda_t."""  # noqa: D403
    return (level_s.logsnr - level_t.logsnr) / 2


def is_finite(level: NoiseLevel) -> bool:
    """Whether lambda is finite at ``level``: it is not for pure noise and for the clean image."""
    return bool(torch.isfinite(level.logsnr))


def constant_x0_step(x: Tensor, x0: Tensor, level_t: NoiseLevel, level_s: NoiseLevel) -> Tensor:
    """The exact solution for an x_0 that does not depend on lambda: DDIM(0)."""
    keep = level_s.sigma / level_t.sigma
    return keep * x + (level_s.alpha - level_t.alpha * keep) * x0


def check_order(name: str, order: int, highest: int) -> None:
    """Check the order of a solver.

    Raises:
        ValueError: it is not 1 to ``highest``.
    """
    if not 1 <= order <= highest:
        raise ValueError(f"{name} has orders 1 to {highest}, not order={order}")


def remember(
    memory: tuple[PastPrediction, ...], level_t: NoiseLevel, value: Tensor, order: int
) -> tuple[PastPrediction, ...]:
    """The newest ``order`` - 1 predictions, newest first; one at pure noise is not kept, since it has no lambda."""
    return (PastPrediction(level_t, value), *memory)[: order - 1] if is_finite(level_t) else memory
