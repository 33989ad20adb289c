"""The variational bound term by term, in nats summed over a picture's dimensions (Ho et al. 2020, eq. 5).

    -log p(x_0) <= L_T + sum_{k=2..T} L_{k-1} + L_0

``prior`` is L_T, ``step`` one of the L_{k-1}, ``decoder`` L_0; ``term`` is whichever of the last two belongs to a step.
How a model is measured by them, whole or by a sample of the steps, is in ``codelength.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.process import posterior_variance, tau
from fromnoise.diffusion.schedules import NoiseLevel, Schedule


def prior(x0: Tensor, last: NoiseLevel) -> Tensor:
    """KL(q(x_T | x_0) || N(0, I)), (B,): 1/2 sum(alpha^2 x_0^2 + sigma^2 - 1 - log sigma^2)."""
    variance = last.sigma**2
    return 0.5 * ((last.alpha * x0) ** 2 + variance - 1 - variance.log()).flatten(1).sum(1)


def step(x0: Tensor, prediction: Prediction, level_t: NoiseLevel, level_s: NoiseLevel, f: float | None = 0.0) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), (B,), for s > 0.

    With the small variance, f = 0, it is 1/2 (SNR_s - SNR_t) |x_0 - x_0_hat|^2 (Kingma et al. 2021, eq. 13).

    Args:
        x0: clean images (B, C, H, W).
        told: the model's prediction at ``level_t``.
        here: level t.
        there: level s < t, s > 0.
        f: the model's variance as in ``rules.Ancestral``; None takes the learned spread.
    """
    share = prediction.variance_fraction if f is None else f
    if share is None:
        raise ValueError("this model has learned no variance")
    small, model = posterior_variance(level_t, level_s), posterior_variance(level_t, level_s, share)
    miss = level_s.alpha * tau(level_t, level_s) * (x0 - prediction.x0)  # of the two means: x_t cancels
    ratio = small / model
    return (0.5 * (ratio - 1 - ratio.log() + miss**2 / model)).flatten(1).sum(1)


def decoder(x0: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """-log p(x_0 | x_1), (B,), a Gaussian integrated over each pixel's bin, 2/255 wide, open at black and white.

    Ho et al. 2020, eq. 13.

    Args:
        x0: clean images (B, C, H, W), the values k/127.5 - 1 of 8-bit pixels.
        mean: of p(x_0 | x_1), same shape.
        deviation: its standard deviation, broadcastable.
    """
    half = 1 / 255
    low, high = (x0 - mean - half) / deviation, (x0 - mean + half) / deviation
    # the probability of [low, high] equals that of [-high, -low]: mirrored to the left tail, where the logarithms keep
    # their digits
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    top = torch.where(flip, x0 < -1 + half, x0 > 1 - half)
    bottom = torch.where(flip, x0 > 1 - half, x0 < -1 + half)
    log_high = torch.where(top, 0.0, torch.special.log_ndtr(high))
    log_low = torch.where(bottom, -math.inf, torch.special.log_ndtr(low))
    gap = (log_low - log_high).clamp(max=-torch.finfo(x0.dtype).tiny)
    return -(log_high + torch.log(-torch.expm1(gap))).flatten(1).sum(1)


def first_deviation(schedule: Schedule, steps: int, f: Tensor | float = 0.0, like: Tensor | None = None) -> Tensor:
    """Standard deviation of p(x_0 | x_1).

    At k = 1 the small variance is 0, so that of k = 2 stands in for it, as in Ho et al.'s code; a learned share lies
    between it and beta_1 (Nichol and Dhariwal 2021, eq. 15).

    Args:
        schedule: of the noise.
        steps: T; the first steps are t = 1/T and 2/T.
        f: 0, or the learned share, broadcastable to images.
        like: images (B, ...) whose dtype and device it takes.

    Raises:
        ValueError: there is one step only.
    """
    if steps < 2:
        raise ValueError("the decoder's variance is read off the second of at least two steps")
    clean, one, two = (schedule.at(k / steps, like) for k in range(3))
    small, large = posterior_variance(two, one), posterior_variance(one, clean, 1.0)
    return (small ** (1 - f) * large**f).sqrt()


def term(
    schedule: Schedule, steps: int, x0: Tensor, prediction: Prediction, level: NoiseLevel, f: float | None = 0.0
) -> Tensor:
    """L_{k-1} of each image at its level t = k/T, (B,): the decoder's where k = 1, the step's elsewhere.

    Args:
        schedule: of the noise.
        steps: T.
        x0: clean images (B, C, H, W).
        told: the model's prediction at ``level``.
        level: t of each image, scales shaped as by ``schedule.at(t, like=x0)``.
        f: the model's variance as in ``rules.Ancestral``; None takes the learned spread.

    Raises:
        ValueError: there is one step only, or no spread was learned.
    """
    share = prediction.variance_fraction if f is None else 0.0
    if share is None:
        raise ValueError("this model has learned no variance")
    first = level.t * steps < 1.5
    level_t = schedule.at(
        level.t.clamp(min=2 / steps), like=x0
    )  # where it is not used the step's must be finite all the
    level_s = schedule.at(torch.where(first, 1 / steps, level.t - 1 / steps), like=x0)  # same: 0 NaN is NaN
    between = step(x0, prediction, level_t, level_s, f)
    if not bool(first.any()):
        return between  # the decoder's logarithms cost as much as a small network
    first = first.to(x0.device).reshape(-1, *[1] * (x0.ndim - 1))
    # likewise the decoder is shown x_0 itself where it is not used: far from it its gradient may be NaN
    shown = decoder(x0, torch.where(first, prediction.x0, x0), first_deviation(schedule, steps, share, x0))
    return torch.where(first.flatten(), shown, between)
