"""What a noisy image still knows: rate and distortion, what samples share from a depth on, and what lies between two.

Ho et al. 2020, sec. 4.3 and 4.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.data import to_float
from fromnoise.diffusion.rng import Noise
from fromnoise.evaluation.likelihood import Measure

OnProgress = Callable[[int], object]
"""Told how many steps more are done."""


@dataclass(frozen=True)
class Progressive:
    """Progressive coding: what was received at each step, and how far the picture is off then.

    Attributes:
        steps: reverse steps, 1 once x_T was received up to T.
        rates: bits a dimension received by then, on average; growing.
        distortions: root mean square error of the estimate of x_0 on 0-255, mean over the images.
        errors: standard errors of the distortions.
        lossless: the whole bound, the decoder's term with it.
        n: images.
    """

    steps: list[int]
    rates: list[float]
    distortions: list[float]
    errors: list[float]
    lossless: float
    n: int


def rate_and_distortion(
    measure: Measure, pixels: Tensor, labels: Tensor | None, on_progress: OnProgress
) -> Progressive:
    """Rate against distortion (Ho et al. 2020, alg. 3 and 4, fig. 5).

    Once x_k has been received the estimate of x_0 is E[x_0 | x_k], and what was sent are L_T and all terms above k.

    Args:
        measure: the model, and how.
        pixels: uint8 (N, C, H, W), one batch.
        labels: classes (N,), for a model that is told them.
        tick: told of progress.
    """
    code, device = measure.code(), measure.compute.device
    x0 = to_float(pixels.to(device)).contiguous(memory_format=measure.compute.memory_format)
    cond = labels.to(device) if labels is not None else None
    unit = 1 / (math.log(2) * x0[0].numel())
    rate = unit * float(code.prior(x0).mean())
    out = Progressive([], [], [], [], 0.0, len(x0))
    with torch.no_grad(), measure.compute.autocast():
        for term in code.all_terms(x0, Noise(measure.seed, torch.arange(len(x0))), cond):
            miss = 127.5 * term.squared_error.sqrt()
            out.steps.append(code.steps - term.k + 1)
            out.rates.append(rate)
            out.distortions.append(float(miss.mean()))
            out.errors.append(float(miss.std()) / len(miss) ** 0.5)
            rate += unit * float(term.nats.mean())
            on_progress(1)
    return Progressive(out.steps, out.rates, out.distortions, out.errors, rate, len(x0))
