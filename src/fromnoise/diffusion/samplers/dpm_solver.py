"""DPM-Solver++ (Lu et al. 2022), of the probability-flow ODE and of the reverse-time SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.samplers.base import DenoiseFn, NoiseFn
from fromnoise.diffusion.samplers.multistep import (
    MultistepSampler,
    PastPrediction,
    check_order,
    constant_x0_step,
    is_finite,
    lambda_difference,
    remember,
)
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@dataclass(frozen=True)
class DPMSolverPP(MultistepSampler):
    """DPM-Solver++ multistep (Lu et al. 2022, alg. 2, its third order, and sec. 5 for the SDE).

    x_0 is interpolated by the polynomial in lambda through the last ``order`` predictions, weighted with
    r e^(r (lambda - lambda_s)), r = 1 for the ODE and 2 for the SDE. At first order they are DDIM(0) and ancestral
    sampling with the small variance. A step to s = 0 returns the predicted x_0.

    Attributes:
        order: 1, 2 or 3; the first steps, without past predictions, are of lower order.
        sde: solve the SDE, with fresh noise in each step.
    """

    order: int = 2
    sde: bool = False

    default_steps = 20

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: it is not 1, 2 or 3.
        """
        check_order("DPM-Solver++", self.order, 3)

    def start(self) -> tuple[PastPrediction, ...]:
        """No past predictions."""
        return ()

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step; see ``Sampler.step``."""
        prediction = denoise(x, level_t)
        if not is_finite(level_s):
            return constant_x0_step(x, prediction.x0, level_t, level_s), prediction, memory
        past, h = memory[: self.order - 1], lambda_difference(level_t, level_s)
        rate, decay = (2, torch.exp(-h)) if self.sde else (1, 1)
        weight = -torch.expm1(-rate * h)
        new = level_s.sigma / level_t.sigma * decay * x + level_s.alpha * weight * prediction.x0
        if past:
            slope, curvature = derivatives(prediction.x0, level_t, past, h)
            if curvature is None:
                new = new + level_s.alpha * weight / 2 * slope
            else:
                moment = 1 - weight / (rate * h)
                new = new + level_s.alpha * (moment * slope + (0.5 - moment / (rate * h)) * curvature)
        if self.sde:
            new = new + level_s.sigma * weight.sqrt() * noise()
        return new, prediction, remember(memory, level_t, prediction.x0, self.order)


def derivatives(
    value: Tensor, level_t: NoiseLevel, past: tuple[PastPrediction, ...], h: Tensor
) -> tuple[Tensor, Tensor | None]:
    """First and second derivative in lambda at ``level_t``, in units of ``h``; two points give no second one."""
    r0 = lambda_difference(past[0].level, level_t) / h
    first = (value - past[0].value) / r0
    if len(past) == 1:
        return first, None
    r1 = lambda_difference(past[1].level, past[0].level) / h
    second = (past[0].value - past[1].value) / r1
    curvature = 2 * (first - second) / (r0 + r1)
    return first + r0 / 2 * curvature, curvature


@register("sampler", "dpmpp-2m")
def dpmpp_2m() -> DPMSolverPP:
    """DPM-Solver++(2M): deterministic, second order (Lu et al. 2022, alg. 2)."""
    return DPMSolverPP(2)


@register("sampler", "dpmpp-3m")
def dpmpp_3m() -> DPMSolverPP:
    """DPM-Solver++(3M): deterministic, third order (Lu et al. 2022)."""
    return DPMSolverPP(3)


@register("sampler", "dpmpp-2m-sde")
def dpmpp_2m_sde() -> DPMSolverPP:
    """SDE-DPM-Solver++(2M): stochastic, second order (Lu et al. 2022, sec. 5)."""
    return DPMSolverPP(2, sde=True)
