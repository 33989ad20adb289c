"""The latent space in which a diffusion model works: a trained autoencoder, and the statistics of its latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LatentSpace(nn.Module):
    """A frozen autoencoder whose latents are standardized: z = (latent - mean) / deviation, channel by channel.

    With the mean and the deviation of the whole training set the latents have mean 0 and variance 1 in every channel,
    so that the noise schedules of images fit and no scale factor (Rombach et al. 2022, app. G) has to be known. The
    weights and statistics are saved with those of the denoiser.

    Attributes:
        autoencoder: as of ``autoencoder.py``; its parameters are not trained.
        shape: (Z, h, w) of the latents.
        mean: of each latent channel, float32 (Z,).
        deviation: of each latent channel, float32 (Z,).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, autoencoder: Any) -> None:
        """Freeze an autoencoder; the statistics are 0 and 1 until they are set."""
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        self.shape: tuple[int, int, int] = autoencoder.latent_shape
        self.register_buffer("mean", torch.zeros(self.shape[0]))
        self.register_buffer("deviation", torch.ones(self.shape[0]))
        self.eval()

    def train(self, mode: bool = True) -> LatentSpace:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the standardized latents of images (B, C, H, W) in [-1, 1], (B, Z, h, w) each."""
        mean, log_variance = self.autoencoder.encode(x)
        shift, scale = self.mean[:, None, None], self.deviation[:, None, None]
        return (mean - shift) / scale, (0.5 * log_variance).exp() / scale

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Standardized latents of images (B, C, H, W) in [-1, 1]: their mean, or a sample by standard normal noise."""
        mean, deviation = self.moments(x)
        return mean if noise is None else mean + deviation * noise

    def shape_for(self, height: int, width: int) -> tuple[int, int, int]:
        """(Z, h, w) of the latents of images of a size.

        Raises:
            ValueError: the autoencoder has no latents of that size.
        """
        size, factor = self.autoencoder.size, self.autoencoder.factor
        if (height, width) == size:
            return self.shape
        if factor is None:
            raise ValueError(f"this autoencoder is built for {size[0]}x{size[1]} pixels only: leave out the size")
        if height % factor or width % factor:
            raise ValueError(f"the size {height}x{width} cannot be divided by the autoencoder's factor {factor}")
        return self.shape[0], height // factor, width // factor

    def decode(self, z: Tensor) -> Tensor:
        """Images in [-1, 1], float32 (B, C, H, W), of standardized latents (B, Z, h, w)."""
        latents = z * self.deviation[:, None, None].to(z) + self.mean[:, None, None].to(z)
        return self.autoencoder.decode(latents)
