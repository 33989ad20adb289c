"""What an autoencoder keeps of images: the part of the distance of latent diffusion that it causes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fromnoise.data import Images, shuffled_indices, to_float, to_uint8
from fromnoise.diffusion.reconstruction import kl_to_standard_normal
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.sources import ImageSource
from fromnoise.model import AutoencoderModel
from fromnoise.utils.device import ComputeConfig

DEAD = 0.01
"""Variance of the mean of q(z | x) over images below which a latent channel tells nothing of them (Burda et al. 2016,
sec. 5.2: an inactive unit)."""


@final
class ReconstructionSource(ImageSource):
    """Reconstructions of images by an autoencoder, from the mean of their latents."""

    def __init__(
        self, name: str, model: AutoencoderModel, compute: ComputeConfig, images: Images, count: int, batch: int = 64
    ) -> None:
        """Choose the images.

        Args:
            name: in tables and figures.
            model: on the device of ``compute`` and in eval mode.
            compute: device and precision.
            images: to reconstruct, such as the held-out ones.
            count: number of images, at most.
            batch: images per batch.
        """
        self._model, self._compute, self._images, self._batch = model, compute, images, batch
        self._indices = shuffled_indices(len(images), 0, range(min(count, len(images))))
        self.name, self.count = name, len(self._indices)

    def batches(self) -> Iterator[Tensor]:
        """See ``ImageSource``."""
        for indices in self._indices.split(self._batch):
            yield to_uint8(self._model.reconstruct(self._images.get(indices), self._compute)).cpu()


@dataclass(frozen=True)
class ReconstructionReport:
    """What an autoencoder keeps.

    Attributes:
        psnr: peak signal-to-noise ratio, 20 log10(255) - 10 log10(mean squared error), in dB, mean over images.
        kl: KL(q(z | x) || N(0, I)) in bits per dimension of the image, mean over images.
        dead: number of latent channels whose mean varies less than ``DEAD`` over the images, averaged over cells.
        channels: number of latent channels.
    """

    psnr: Estimate
    kl: Estimate
    dead: int
    channels: int

    def describe(self) -> str:
        """A line for the user."""
        return (
            f"reconstruction of {self.psnr.n:,} held-out images: PSNR {self.psnr.value:.2f} +- {self.psnr.error:.2f} "
            f"dB, KL divergence {self.kl.value:.3g} +- {self.kl.error:.1g} bits/dim, {self.dead} of {self.channels} "
            "latent channels dead"
        )


def measure_reconstruction(
    model: AutoencoderModel,
    compute: ComputeConfig,
    images: Images,
    count: int = 1000,
    batch: int = 64,
    on_progress: Callable[[int], object] = lambda count: None,
) -> ReconstructionReport:
    """Measure an autoencoder on images.

    Args:
        model: on the device of ``compute`` and in eval mode.
        compute: device and precision.
        images: such as the held-out ones; at least two.
        count: number of images, at most.
        batch: images per batch.
        on_progress: called with the number of further images done.
    """
    psnr, kl, means = [], [], []
    for indices in shuffled_indices(len(images), 0, range(min(count, len(images)))).split(batch):
        pixels = images.get(indices)
        out = to_uint8(model.reconstruct(pixels, compute)).cpu().double()
        error = (out - pixels.double()).square().flatten(1).mean(1)
        psnr.append(20 * math.log10(255) - 10 * error.clamp(min=1e-4).log10())
        x = to_float(pixels.to(compute.device)).contiguous(memory_format=compute.memory_format)
        with torch.no_grad(), compute.autocast():
            mean, log_variance = (t.cpu().double() for t in model.module.encode(x))
        kl.append(kl_to_standard_normal(mean, log_variance) / (math.log(2) * pixels[0].numel()))
        means.append(mean)
        on_progress(len(indices))
    channels = torch.cat(means).var(0).mean((1, 2))
    return ReconstructionReport(
        Estimate.mean_of(torch.cat(psnr)), Estimate.mean_of(torch.cat(kl)), int((channels < DEAD).sum()), len(channels)
    )
