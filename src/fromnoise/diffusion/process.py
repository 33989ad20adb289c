"""The forward and the reverse transition between any two times s < t (Ho et al. 2020, eqs. 2, 6 and 7).

With ``tau = 1 - SNR_t / SNR_s = -expm1(logsnr_t - logsnr_s)``:

    q(x_t | x_s)        mean      (alpha_t / alpha_s) x_s
                        variance  tau sigma_t^2
    q(x_s | x_t, x_0)   mean      alpha_s tau x_0 + (alpha_t sigma_s^2) / (alpha_s sigma_t^2) x_t
                        variance  tau sigma_s^2

For neighbouring steps, ``s = t - 1/T``, the first variance is beta_t and the second beta_t (1 - A_{t-1}) / (1 - A_t),
"beta tilde". A sampler may use any variance between the two: ``tau sigma_s^(2(1-f)) sigma_t^(2f)``, f = 0 small, f = 1
large.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.diffusion.schedules import NoiseLevel


def tau(level_t: NoiseLevel, level_s: NoiseLevel) -> Tensor:
    """1 - SNR_t / SNR_s for s < t: the fraction of the noise variance at t that was added after s."""
    return -torch.expm1(level_t.logsnr - level_s.logsnr)


def forward(x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_t | x_s) (Ho et al. 2020, eq. 2, for any s < t).

    Args:
        x: x_s, (B, ...).
        level_t: t.
        level_s: s < t.

    Returns:
        The mean, shaped as ``x``, and the variance, broadcastable.
    """
    return level_t.alpha / level_s.alpha * x, tau(level_t, level_s) * level_t.sigma**2


def posterior_mean(x0: Tensor, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel) -> Tensor:
    """Mean of q(x_s | x_t, x_0) (Ho et al. 2020, eq. 7, for any s < t).

    Args:
        x0: x_0, or its estimate, (B, ...).
        x: x_t, (B, ...).
        level_t: t.
        level_s: s < t.
    """
    x_weight = level_t.alpha * level_s.sigma**2 / (level_s.alpha * level_t.sigma**2)
    return level_s.alpha * tau(level_t, level_s) * x0 + x_weight * x


def posterior_variance(level_t: NoiseLevel, level_s: NoiseLevel, f: Tensor | float = 0.0) -> Tensor:
    """Variance of the reverse step, interpolated in the logarithm (Nichol and Dhariwal 2021, eq. 15).

    tau sigma_s^(2(1-f)) sigma_t^(2f)

    Args:
        level_t: t.
        level_s: s < t.
        f: 0 is the variance of q(x_s | x_t, x_0), 1 that of q(x_t | x_s); a tensor for one of each pixel.

    Returns:
        Broadcastable to images; 0 at s = 0 if f < 1.
    """
    return tau(level_t, level_s) * level_s.sigma ** (2 * (1 - f)) * level_t.sigma ** (2 * f)
