"""Progressive lossy coding: rate and distortion over the reverse steps (Ho et al. 2020, section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.data import to_float
from fromnoise.diffusion.rng import Noise
from fromnoise.evaluation.likelihood import LikelihoodEvaluator

OnProgress = Callable[[int], object]
"""Called with the number of further steps done."""


@dataclass(frozen=True)
class RateDistortion:
    """Rate and distortion after each reverse step.

    Attributes:
        steps: number of reverse steps, 1 when x_T has been received, up to T.
        rates: mean bits/dim received by then, increasing.
        distortions: root mean square error of the estimate of x_0 on 0-255, mean over the images.
        errors: standard errors of the distortions.
        lossless: rate of the lossless code: the whole bound with the decoder's term.
        n: number of images.
    """

    steps: list[int]
    rates: list[float]
    distortions: list[float]
    errors: list[float]
    lossless: float
    n: int


def rate_and_distortion(
    evaluator: LikelihoodEvaluator, pixels: Tensor, labels: Tensor | None, on_progress: OnProgress
) -> RateDistortion:
    """Rate against distortion (Ho et al. 2020, algorithms 3 and 4, figure 5).

    Once x_k is received, the decoder's estimate is E[x_0 | x_k], and the rate is L_T plus all terms above k.

    Args:
        evaluator: of the model.
        pixels: uint8 (N, C, H, W), one batch.
        labels: condition of each image, or None.
        on_progress: called after each step.

    Raises:
        UserError: the model is one of latents.
    """
    evaluator.model.require_pixels("rate against distortion")
    elbo, device = evaluator.elbo(), evaluator.compute.device
    x0 = to_float(pixels.to(device)).contiguous(memory_format=evaluator.compute.memory_format)
    cond, label_nats = evaluator.condition(x0, labels.to(device) if labels is not None else None)
    bits_per_nat = 1 / (math.log(2) * x0[0].numel())
    rate = bits_per_nat * float((elbo.prior(x0) + label_nats).mean())
    out = RateDistortion([], [], [], [], 0.0, len(x0))
    with torch.no_grad(), evaluator.compute.autocast():
        for term in elbo.all_terms(x0, Noise(evaluator.seed, torch.arange(len(x0))), cond):
            distortion = 127.5 * term.squared_error.sqrt()
            out.steps.append(elbo.steps - term.k + 1)
            out.rates.append(rate)
            out.distortions.append(float(distortion.mean()))
            out.errors.append(float(distortion.std()) / len(distortion) ** 0.5)
            rate += bits_per_nat * float(term.nats.mean())
            on_progress(1)
    return RateDistortion(out.steps, out.rates, out.distortions, out.errors, rate, len(x0))
