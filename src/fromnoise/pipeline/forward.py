"""Samples of the forward process, for teaching and for data previews."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fromnoise.data import to_float, to_uint8
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import Schedule

FORWARD_TIMES = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)


def forward_process(
    schedule: Schedule,
    pixels: Tensor,
    seed: int = 0,
    times: tuple[float, ...] = FORWARD_TIMES,
    latent_space: Any = None,
) -> tuple[list[Tensor], list[float]]:
    """Samples of q(x_t | x_0): the same images and the same noise at increasing times.

    Args:
        schedule: of the noise.
        pixels: uint8 (B, C, H, W).
        seed: of the noise.
        times: t in [0, 1].
        latent_space: where the noise is added, as of ``Model.latent_space``; None for pixels.

    Returns:
        uint8 (B, C, H, W) for each time, and the times.
    """
    x0 = to_float(pixels)
    if latent_space is not None:
        x0 = latent_space.encode(x0.to(latent_space.mean.device))
    eps = Noise(seed, torch.arange(len(x0))).normal(tuple(x0.shape[1:]), Stream.EPS, like=x0)
    noisy = [schedule.at(t).noisy(x0, eps) for t in times]
    if latent_space is not None:
        with torch.no_grad():
            noisy = [latent_space.decode(x) for x in noisy]
    return [to_uint8(x).cpu() for x in noisy], list(times)
