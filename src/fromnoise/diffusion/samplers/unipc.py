"""UniPC: a predictor and a corrector of any order for one evaluation a step (Zhao et al. 2023)."""

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
)
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("sampler", "unipc")
@dataclass(frozen=True)
class UniPC(MultistepSampler):
    """UniPC-p with B(h) = e^h - 1 (Zhao et al. 2023, algs. 5 to 8).

    The evaluation at a predicted image corrects that image before the next step starts from it; the corrected image is
    not evaluated again.

    Attributes:
        order: of the predictor, 1 to 3; the corrector adds one.
    """

    order: int = 2

    default_steps = 20

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: it is not 1, 2 or 3.
        """
        check_order("UniPC", self.order, 3)

    def start(self) -> tuple[tuple[PastPrediction, ...], Tensor | None]:
        """No past predictions, and no image to correct from."""
        return (), None

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """Correct ``x`` with the prediction at it, then predict x_s; see ``Sampler.step``."""
        prediction = denoise(x, level_t)
        past, previous_x = memory
        if past and is_finite(level_t):
            nodes = (PastPrediction(level_t, prediction.x0), *past[1:])
            x = _unified_step(previous_x, past[0], level_t, nodes)
        now = PastPrediction(level_t, prediction.x0)
        if is_finite(level_t) and is_finite(level_s):
            new = _unified_step(x, now, level_s, past[: self.order - 1])
            kept = (now, *past)[: self.order]
        else:
            new, kept = constant_x0_step(x, prediction.x0, level_t, level_s), ()
        return new, prediction, (kept, x)


def _unified_step(x: Tensor, start: PastPrediction, level_s: NoiseLevel, nodes: tuple[PastPrediction, ...]) -> Tensor:
    """``constant_x0_step`` and a weighted sum of the differences of ``nodes`` to ``start``.

    Source: Zhao et al. 2023, eqs. 3, 5 and 9.
    """
    new = constant_x0_step(x, start.value, start.level, level_s)
    if not nodes:
        return new
    h = lambda_difference(start.level, level_s)
    ratios = torch.stack([lambda_difference(start.level, p.level) / h for p in nodes])
    base = -torch.expm1(-h)
    phi, moments = base, []
    for k in range(1, len(nodes) + 1):
        # phi_k = h times the integral of e^(-h (1 - u)) u^k over [0, 1]; over base it is what the sum must give for u^k
        phi = 1 - k * phi / h
        moments.append(phi / base)
    if len(nodes) == 1:
        weights = [torch.full_like(h, 0.5)]  # as in the paper: for one node any weight that tends to 1/2 has the order
    else:
        powers = torch.arange(len(nodes), dtype=torch.float64)
        weights = list(torch.linalg.solve(ratios[None, :] ** powers[:, None], torch.stack(moments)))
    for weight, ratio, p in zip(weights, ratios, nodes, strict=True):
        new = new + level_s.alpha * base * weight / ratio * (p.value - start.value)
    return new
