"""RePaint: replace the known part of the image at every noise level, with resampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.inverse.inverse_solver import InverseSolver
from fromnoise.diffusion.inverse.operators import LinearOperator
from fromnoise.diffusion.process import forward
from fromnoise.diffusion.samplers import DDIM, DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("inverse_solver", "repaint")
@dataclass(frozen=True)
class RePaint(InverseSolver):
    """Ancestral sampling with the known part replaced by noised y after each step (Lugmayr et al. 2022, alg. 1).

    Each step is repeated ``resamplings`` times, going back up by fresh noise in between, so that the unknown part
    adapts to the known part. One resampling is the replacement method of Song et al. 2021, app. I.2; with an operator
    other than a mask it is ILVR (Choi et al. 2021). The samples do not follow p(x_0 | y) for any number of
    resamplings: the noise of the known part does not depend on the unknown part.

    The user's sampler is replaced by DDIM with eta = 1: samplers that keep a history cannot go back up.

    Args:
        resamplings: evaluations a step, at least 1; 10 in the paper.
    """

    resamplings: int = 10

    def __post_init__(self) -> None:
        if self.resamplings < 1:
            raise ValueError(f"resamplings is {self.resamplings}: use a number of at least 1")

    def sampler(self, sampler: Sampler, operator: LinearOperator, y: Tensor) -> Sampler:
        """DDIM with eta = 1, replacement and resampling."""
        return ReplacementSampler(DDIM(1.0), operator, y, self.resamplings)


@dataclass(frozen=True)
class ReplacementSampler(Sampler):
    """The sampler of ``RePaint``.

    Args:
        base: a sampler of one evaluation a step that keeps no history.
        operator: A.
        y: the measurement, (1, ...) or (B, ...).
        resamplings: as of ``RePaint``.
    """

    base: Sampler
    operator: LinearOperator
    y: Tensor
    resamplings: int = 10

    def start(self) -> Any:
        """That of ``base``."""
        return self.base.start()

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step, resampled; the step to s = 0 is taken once and ends in an image that agrees with y."""
        remaining = self.resamplings if level_s.sigma > 0 else 1
        while True:
            x_s, prediction, new_memory = self.base.step(denoise, x, level_t, level_s, noise, memory)
            if level_s.sigma == 0:
                return self.operator.project(x_s, self.y), prediction, new_memory
            known = level_s.alpha * self.y + level_s.sigma * self.operator.forward(noise())
            x_s = self.operator.project(x_s, known)
            remaining -= 1
            if remaining == 0:
                return x_s, prediction, new_memory
            mean, variance = forward(x_s, level_t, level_s)
            x = mean + variance.sqrt() * noise()
