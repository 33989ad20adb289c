"""iPNDM: Adams-Bashforth on the predicted noise (Zhang and Chen 2022, "DEIS")."""

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
    remember,
)
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("sampler", "ipndm")
@dataclass(frozen=True)
class IPNDM(MultistepSampler):
    """Adams-Bashforth on the predicted noise, with weights for the actual step sizes (Zhang and Chen 2022, "DEIS").

    In x/alpha and rho = sigma/alpha the flow is d(x/alpha)/d rho = eps_hat; the polynomial in rho through the last
    ``order`` values of eps_hat is integrated exactly, so the order holds on any grid.

    Attributes:
        order: 1 (DDIM) to 4; the first steps are of lower order.
    """

    order: int = 3

    default_steps = 25

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: it is not 1 to 4.
        """
        check_order("ipndm", self.order, 4)

    def start(self) -> tuple[PastPrediction, ...]:
        """No past predictions."""
        return ()

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step; see ``Sampler.step``."""
        prediction = denoise(x, level_t)
        eps = level_t.eps(x, prediction.x0)
        if not is_finite(level_t):
            return constant_x0_step(x, prediction.x0, level_t, level_s), prediction, memory
        known = (PastPrediction(level_t, eps), *memory)[: self.order]
        rhos = torch.stack([p.level.sigma / p.level.alpha for p in known])
        weights = adams_weights(rhos, level_s.sigma / level_s.alpha)
        new = x / level_t.alpha + sum(w * p.value for w, p in zip(weights, known, strict=True))
        return level_s.alpha * new, prediction, remember(memory, level_t, eps, self.order)


def adams_weights(nodes: Tensor, end: Tensor) -> Tensor:
    """Integrals from ``nodes[0]`` to ``end`` of the Lagrange polynomials of the nodes, float64 (K,)."""
    span = end - nodes[0]
    places = (nodes - nodes[0]) / span
    powers = torch.arange(len(nodes), dtype=torch.float64)
    moments = 1 / (powers + 1)
    return span * torch.linalg.solve(places[None, :] ** powers[:, None], moments)
