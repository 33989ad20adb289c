"""Classifier guidance: towards what a classifier of noisy images takes for the class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.guidance.gradient import differentiable, leaf, thawed
from fromnoise.diffusion.schedules import NoiseLevel

Classifier = Callable[[Tensor, NoiseLevel], Tensor]
"""``classifier(x, level)``: log-probabilities, or logits, (B, K) of the classes of noisy images."""


@dataclass(frozen=True)
class ClassifierGuidance:
    """x_0 + scale sigma^2 / alpha grad_x log p(cond | x_t) (Dhariwal and Nichol 2021, alg. 1 and 2).

    With an exact classifier of scale 1, around a model that is told nothing (``Unconditional``), it is the conditional model.
    Around a conditional model it sharpens, as classifier-free guidance does.

    Attributes:
        denoise: the model.
        classifier: of noisy images, differentiable.
        scale: 0 is none.
    """

    denoise: Denoise
    classifier: Classifier
    scale: float = 1.0

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction; images whose ``cond`` is -1 are left alone, and so is pure noise."""
        prediction = self.denoise(x, level, cond, previous)
        if cond is None or self.scale == 0 or level.alpha == 0:
            return prediction
        with differentiable():
            at = leaf(x)
            chosen = torch.log_softmax(self.classifier(at, thawed(level)), dim=1)
            mine = chosen.gather(1, cond.clone().clamp(min=0)[:, None]).squeeze(1)
            (slope,) = torch.autograd.grad(torch.where(cond.clone() < 0, 0.0, mine).sum(), at)
        return Prediction(
            prediction.x0 + self.scale * level.sigma**2 / level.alpha * slope, prediction.variance_fraction
        )
