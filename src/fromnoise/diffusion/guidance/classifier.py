"""Classifier guidance: follow the gradient of a classifier of noisy images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.guidance.gradient import as_leaf, differentiable_level, gradients_enabled
from fromnoise.diffusion.schedules import NoiseLevel

Classifier = Callable[[Tensor, NoiseLevel], Tensor]
"""``classifier(x, level)``: logits or log-probabilities (B, K) of the classes of noisy images."""


@dataclass(frozen=True)
class ClassifierGuidance:
    """Guide a model by the gradient of a classifier (Dhariwal and Nichol 2021, alg. 1 and 2).

    x0_guided = x0 + scale sigma_t^2 / alpha_t grad_x log p(cond | x_t)

    Around an unconditional model (``Unconditional``), the exact classifier at scale 1 gives the conditional model.

    Args:
        denoise: the model.
        classifier: of noisy images, differentiable with respect to them.
        scale: 0 is no guidance.
    """

    denoise: Denoise
    classifier: Classifier
    scale: float = 1.0

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction; arguments as of ``Denoiser.forward``.

        Images with ``cond`` -1 are not guided, nor are images at alpha_t = 0, which carry no signal.
        """
        prediction = self.denoise(x, level, cond, previous)
        if cond is None or self.scale == 0 or level.alpha == 0:
            return prediction
        with gradients_enabled():
            at = as_leaf(x)
            log_p = torch.log_softmax(self.classifier(at, differentiable_level(level)), dim=1)
            selected = log_p.gather(1, cond.clone().clamp(min=0)[:, None]).squeeze(1)
            (gradient,) = torch.autograd.grad(torch.where(cond.clone() < 0, 0.0, selected).sum(), at)
        return Prediction(
            prediction.x0 + self.scale * level.sigma**2 / level.alpha * gradient, prediction.variance_fraction
        )
