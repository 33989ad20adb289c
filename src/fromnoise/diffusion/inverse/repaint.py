"""Inpainting by a rule: what is known is put into the noisy image at every level (RePaint)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.inverse.operators import Operator
from fromnoise.diffusion.process import forward
from fromnoise.diffusion.samplers import DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.schedules import NoiseLevel


@dataclass(frozen=True)
class Repaint(Sampler):
    """A rule's step, then its known part replaced by y under noise; and the same again from the level before.

    Lugmayr et al. 2022, "RePaint", alg. 1. Going back up by fresh noise lets the unknown part learn of the known one;
    one pass is the replacement of Song et al. 2021, app. I.2. With an operator that is no mask it is ILVR (Choi et al.
    2021). Its samples are not those of p(x_0 | y) however many passes there are: the noise of the known part is drawn
    without regard to the unknown.

    Attributes:
        rule: any rule of one evaluation and no memory.
        operator: A.
        y: what is known, (1, ...) or (B, ...).
        passes: evaluations a step; 10 in the paper.
    """

    sampler: Sampler
    operator: Operator
    y: Tensor
    passes: int = 10

    def start(self) -> Any:
        """The rule's."""
        return self.sampler.start()

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step; to the clean image there is one pass, which ends in y itself."""
        passes = self.passes if level_s.sigma > 0 else 1
        while True:
            new, prediction, kept = self.sampler.step(denoise, x, level_t, level_s, noise, memory)
            if level_s.sigma == 0:
                return self.operator.agree(new, self.y), prediction, kept
            known = level_s.alpha * self.y + level_s.sigma * self.operator.forward(noise())
            new = self.operator.agree(new, known)
            passes -= 1
            if passes == 0:
                return new, prediction, kept
            mean, variance = forward(new, level_t, level_s)
            x = mean + variance.sqrt() * noise()
