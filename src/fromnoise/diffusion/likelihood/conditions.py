"""Likelihoods under the noise and the inputs that a model is trained and sampled with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.schedules import NoiseLevel


def whiten(x: Tensor, offset: float) -> Tensor:
    """C^(-1/2) x for the covariance C = I + offset^2 J of offset noise, J all ones within a channel.

    C has the eigenvalue 1 + n offset^2 for the mean of the n pixels of a channel, and 1 elsewhere.

    Args:
        x: images (B, C, H, W).
        offset: strength of the offset noise; 0 returns ``x``.
    """
    if not offset:
        return x
    mean = x.flatten(2).mean(2).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    return x - mean * (1 - (1 + math.prod(x.shape[2:]) * offset**2) ** -0.5)


def log_determinant(shape: torch.Size, offset: float) -> float:
    """Log det C of images (B, C, H, W): log(1 + n offset^2) for each channel."""
    return shape[1] * math.log1p(math.prod(shape[2:]) * offset**2) if offset else 0.0


@dataclass(frozen=True)
class SelfConditioned:
    """A self-conditioned model (Chen et al. 2022) as a function of x_t alone, by two evaluations.

    The prediction is conditioned on the model's own estimate at the same level, as in training. A sampler conditions on
    the estimate of the step before, so that its steps are not a Markov chain in x_t and have no bound of this form.

    Args:
        denoise: the model.
    """

    denoise: Denoise

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The prediction; arguments as of ``Denoiser.forward``, ``previous`` in place of the estimate if given."""
        estimate = self.denoise(x, level, cond, None).x0 if previous is None else previous
        return self.denoise(x, level, cond, estimate)
