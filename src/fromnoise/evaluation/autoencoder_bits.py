"""Likelihoods with an autoencoder: the joint bound of latent diffusion, and the bound of a variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.data import to_float
from fromnoise.diffusion.reconstruction import kl_to_standard_normal, reconstruction_nll
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.model import AutoencoderModel
from fromnoise.utils.device import ComputeConfig

RECONSTRUCTION, POSTERIOR, KL = "-log p(x | z)", "log q(z | x)", "KL"
"""Names of the parts."""


def sampled_latents(space: Any, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Latents of images, and their log density.

    Args:
        space: as of ``networks.latent_space``.
        x: images (B, C, H, W) in [-1, 1].
        noise: latents of image i depend on (seed, i).

    Returns:
        z ~ q(z | x), standardized, (B, Z, h, w), and log q(z | x) in nats, float64 (B,) on the CPU.
    """
    mean, deviation = space.moments(x)
    eps = noise.normal(tuple(mean.shape[1:]), Stream.BOUND_LATENT, like=mean)
    wide, log_deviation = eps.cpu().double(), deviation.cpu().double().log()  # some devices have no float64
    log_q = -(0.5 * (wide**2 + math.log(2 * math.pi)) + log_deviation).flatten(1).sum(1)
    return mean + deviation * eps, log_q


def autoencoder_nats(space: Any, compute: ComputeConfig, pixels: Tensor, noise: Noise) -> dict[str, Tensor]:
    """What an autoencoder adds to the bound -log p(z) of a diffusion model of its latents.

        -log p(x) <= E_q(z | x)[-log p(x | z) + log q(z | x) - log p(z)]

    Args:
        space: as of ``networks.latent_space``.
        compute: device and precision.
        pixels: uint8 (B, C, H, W).
        noise: as of ``sampled_latents``.

    Returns:
        -log p(x | z) and log q(z | x) in nats, float64 (B,) each on the CPU.

    Source: Vahdat et al. 2021, "Score-based generative modeling in latent space", eq. 4.
    """
    x = to_float(pixels.to(compute.device)).contiguous(memory_format=compute.memory_format)
    with torch.no_grad(), compute.autocast():
        z, log_q = sampled_latents(space, x, noise)
        decoded = space.decode(z)
    with torch.no_grad():
        nll = reconstruction_nll(x.cpu().double(), decoded.cpu().double(), space.autoencoder)
    return {RECONSTRUCTION: nll, POSTERIOR: log_q}


@dataclass(frozen=True)
class VAEBound:
    """The bound of a variational autoencoder.

    Attributes:
        each: bound of each image in bits/dim, (N,).
        parts: means of -log p(x | z) and of KL(q(z | x) || N(0, I)), in bits/dim.
    """

    each: Tensor
    parts: dict[str, float]


def vae_bound(
    model: AutoencoderModel,
    compute: ComputeConfig,
    pixels: Tensor,
    seed: int = 0,
    batch: int = 64,
    on_progress: Callable[[int], object] = lambda count: None,
) -> VAEBound:
    """-log2 p(x) <= E_q(z | x)[-log2 p(x | z)] + KL(q(z | x) || N(0, I)), by one sample of z for each image.

    Args:
        model: on ``compute.device`` and in eval mode.
        compute: device and precision.
        pixels: uint8 (N, C, H, W).
        seed: of the latents; those of image i depend on (seed, i).
        batch: images at a time.
        on_progress: called with the number of further images done.

    Source: Kingma and Welling 2014, eq. 7.
    """
    nll, kl = [], []
    for ids in torch.arange(len(pixels)).split(batch):
        x = to_float(pixels[ids].to(compute.device)).contiguous(memory_format=compute.memory_format)
        with torch.no_grad():
            with compute.autocast():
                mean, log_variance = model.module.encode(x)
                eps = Noise(seed, ids).normal(tuple(mean.shape[1:]), Stream.BOUND_LATENT, like=mean)
                decoded = model.module.decode(mean + (0.5 * log_variance).exp() * eps)
            nll.append(reconstruction_nll(x.cpu().double(), decoded.cpu().double(), model.module))
            kl.append(kl_to_standard_normal(mean.cpu().double(), log_variance.cpu().double()))
        on_progress(len(ids))
    bits = 1 / (math.log(2) * pixels[0].numel())
    parts = {RECONSTRUCTION: bits * torch.cat(nll), KL: bits * torch.cat(kl)}
    return VAEBound(parts[RECONSTRUCTION] + parts[KL], {name: float(part.mean()) for name, part in parts.items()})
