"""The terms of the variational bound, in nats summed over the dimensions of an image (Ho et al. 2020, eq. 5).

    -log p(x_0) <= L_T + sum_{k=2..T} L_{k-1} + L_0

``prior_kl`` is L_T, ``step_kl`` one of the L_{k-1}, ``decoder_nll`` L_0; ``term`` is the one that belongs to a step.
``code_length.py`` evaluates them for a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.likelihood.conditions import whiten
from fromnoise.diffusion.process import posterior_variance, tau
from fromnoise.diffusion.schedules import NoiseLevel, Schedule


def prior_kl(x0: Tensor, last: NoiseLevel, offset: float = 0.0) -> Tensor:
    """L_T = KL(q(x_T | x_0) || N(0, C)), with C = I, or the covariance of offset noise.

    1/2 sum(alpha_T^2 (C^(-1/2) x_0)^2 + sigma_T^2 - 1 - log sigma_T^2)

    Args:
        x0: clean images (B, C, H, W).
        last: level t = 1.
        offset: strength of the offset noise.

    Returns:
        Nats, (B,).
    """
    variance = last.sigma**2
    return 0.5 * ((last.alpha * whiten(x0, offset)) ** 2 + variance - 1 - variance.log()).flatten(1).sum(1)


def step_kl(
    x0: Tensor,
    prediction: Prediction,
    level_t: NoiseLevel,
    level_s: NoiseLevel,
    f: float | None = 0.0,
    offset: float = 0.0,
) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) for 0 < s < t.

    With the small variance (f = 0) it is 1/2 (SNR_s - SNR_t) |x_0 - x0_hat|^2 (Kingma et al. 2021, eq. 13).

    Args:
        x0: clean images (B, C, H, W).
        prediction: of the model at ``level_t``.
        level_t: t.
        level_s: s, above 0.
        f: variance of the model, as of ``posterior_variance``; None takes the learned one.
        offset: strength of the offset noise: both distributions have its covariance in place of I.

    Returns:
        Nats, (B,).

    Raises:
        ValueError: ``f`` is None, and the model has no learned variance or the noise an offset.
    """
    fraction = prediction.variance_fraction if f is None else f
    if fraction is None:
        raise ValueError("this model has no learned variance")
    if f is None and offset:
        raise ValueError("a learned variance with offset noise has no bound here: choose a fixed variance")
    small, model = posterior_variance(level_t, level_s), posterior_variance(level_t, level_s, fraction)
    difference = whiten(x0 - prediction.x0, offset)
    mean_error = level_s.alpha * tau(level_t, level_s) * difference  # of the posterior means: x_t cancels
    ratio = small / model
    return (0.5 * (ratio - 1 - ratio.log() + mean_error**2 / model)).flatten(1).sum(1)


def decoder_nll(
    x0: Tensor, mean: Tensor, std: Tensor, log_cdf: Callable[[Tensor], Tensor] = torch.special.log_ndtr
) -> Tensor:
    """L_0 = -log p(x_0 | x_1), a Gaussian integrated over the bin of each 8-bit pixel (Ho et al. 2020, eq. 13).

    Bins are 2/255 wide; the first and the last extend to infinity.

    Args:
        x0: clean images (B, C, H, W), the values k/127.5 - 1 of 8-bit pixels.
        mean: of p(x_0 | x_1), same shape.
        std: standard deviation of p(x_0 | x_1), or the scale of another distribution, broadcastable.
        log_cdf: logarithm of the distribution function at scale 1, symmetric about 0.

    Returns:
        Nats, (B,).
    """
    half = 1 / 255
    low, high = (x0 - mean - half) / std, (x0 - mean + half) / std
    # the probability of [low, high] equals that of [-high, -low]: bins are mirrored to the left tail, where log_cdf
    # is accurate
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    top = torch.where(flip, x0 < -1 + half, x0 > 1 - half)
    bottom = torch.where(flip, x0 > 1 - half, x0 < -1 + half)
    log_high = torch.where(top, 0.0, log_cdf(high))
    log_low = torch.where(bottom, -math.inf, log_cdf(low))
    gap = (log_low - log_high).clamp(max=-torch.finfo(x0.dtype).tiny)
    return -(log_high + torch.log(-torch.expm1(gap))).flatten(1).sum(1)


def density_nll(x0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """L_0 of a continuous x_0, such as latents: minus the logarithm of a Gaussian density, nats (B,).

    The arguments are those of ``decoder_nll``. As a density has units, it can be negative.
    """
    return (0.5 * ((x0 - mean) / std) ** 2 + std.log() + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


def decoder_std(schedule: Schedule, steps: int, f: Tensor | float = 0.0, like: Tensor | None = None) -> Tensor:
    """Standard deviation of p(x_0 | x_1).

    At k = 1 the small variance is 0; as in the code of Ho et al. that of k = 2 replaces it. The learned variance is
    interpolated between it and beta_1 (Nichol and Dhariwal 2021, eq. 15).

    Args:
        schedule: of the noise.
        steps: T; the first two steps are t = 1/T and 2/T.
        f: 0, or the learned variance fraction, broadcastable to images.
        like: images (B, ...) whose dtype and device the result has.

    Raises:
        ValueError: ``steps`` is 1.
    """
    if steps < 2:
        raise ValueError("the decoder variance needs at least two steps")
    clean, one, two = (schedule.at(k / steps, like) for k in range(3))
    small, large = posterior_variance(two, one), posterior_variance(one, clean, 1.0)
    return (small ** (1 - f) * large**f).sqrt()


def term(
    schedule: Schedule,
    steps: int,
    x0: Tensor,
    prediction: Prediction,
    level: NoiseLevel,
    f: float | None = 0.0,
    offset: float = 0.0,
    decoder: Callable[[Tensor, Tensor, Tensor], Tensor] = decoder_nll,
) -> Tensor:
    """L_{k-1} of each image at its own level t = k/T: ``decoder`` where k = 1, ``step_kl`` elsewhere.

    Args:
        schedule: of the noise.
        steps: T.
        x0: clean images (B, C, H, W).
        prediction: of the model at ``level``.
        level: t of each image, shaped as by ``schedule.at(t, like=x0)``.
        f: variance of the model, as of ``posterior_variance``; None takes the learned one.
        offset: strength of the offset noise. The decoder has independent pixels all the same.
        decoder: ``decoder_nll``, or ``density_nll`` for a continuous x_0.

    Returns:
        Nats, (B,).

    Raises:
        ValueError: ``steps`` is 1, or ``f`` is None and the model has no learned variance.
    """
    fraction = prediction.variance_fraction if f is None else 0.0
    if fraction is None:
        raise ValueError("this model has no learned variance")
    first = level.t * steps < 1.5
    # the step term must be finite also where the decoder term replaces it: 0 times NaN is NaN in the gradient
    level_t = schedule.at(level.t.clamp(min=2 / steps), like=x0)
    level_s = schedule.at(torch.where(first, 1 / steps, level.t - 1 / steps), like=x0)
    kl = step_kl(x0, prediction, level_t, level_s, f, offset)
    if not bool(first.any()):
        return kl  # the decoder term costs as much as a small network
    first = first.to(x0.device).reshape(-1, *[1] * (x0.ndim - 1))
    # where the decoder term is not used its mean is x_0 itself: far from x_0 its gradient may be NaN
    nll = decoder(x0, torch.where(first, prediction.x0, x0), decoder_std(schedule, steps, fraction, x0))
    return torch.where(first.flatten(), nll, kl)
