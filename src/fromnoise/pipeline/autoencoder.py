"""Autoencoders for Python programs: encode, decode, reconstruct, and sample from a variational autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.data import to_float, to_uint8
from fromnoise.model import AutoencoderModel
from fromnoise.pipeline.sampling_run import collect, sample_steps
from fromnoise.utils.device import ComputeConfig, select_device


class Autoencoder:
    """A trained autoencoder with its recipe and its device."""

    def __init__(self, model: AutoencoderModel, *, device: str | None = None, precision: str = "auto") -> None:
        """Move the model to a device.

        Args:
            model: as of ``checkpoint.load_autoencoder``.
            device: as of ``load``.
            precision: "auto", "bf16" or "fp32".
        """
        self.model = model
        self.compute: ComputeConfig = select_device(device, precision)
        self.compute.to_device(model.module)
        model.module.eval()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(Z, h, w) of the latents of an image of the training size."""
        return self.model.module.latent_shape

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), float32 (B, Z, h, w) each, of images, uint8 (B, C, H, W).

        Raises:
            ValueError: the images have another number of channels, or a size that has no latents.
        """
        (channels, *own), factor = self.model.dataset_info.shape, self.model.module.factor
        size = list(images.shape[2:])
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images of shape {tuple(images.shape)}: this autoencoder takes (B, {channels}, H, W)")
        if size != own and (factor is None or any(side % factor for side in size)):
            needed = f"multiples of {factor}" if factor else "x".join(map(str, own))
            raise ValueError(f"images of {size[0]}x{size[1]} have no latents in this autoencoder: {needed} have")
        x = to_float(images.to(self.compute.device)).contiguous(memory_format=self.compute.memory_format)
        with self.compute.autocast():
            return self.model.module.encode(x)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images, uint8 (B, C, H, W), of latents (B, Z, h, w)."""
        with self.compute.autocast():
            return to_uint8(self.model.module.decode(latents.to(self.compute.device))).cpu()

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images decoded from the mean of their latents, uint8 (B, C, H, W) each."""
        return self.decode(self.encode(images)[0])

    def sample(self, n: int = 1, *, seed: int = 0, batch: int = 64) -> Tensor:
        """Samples of a variational autoencoder, uint8 (n, C, H, W); sample i is a function of (seed, i).

        Raises:
            UserError: the latents of this autoencoder do not follow a prior.
        """
        config = self.model.recipe.sample
        return collect(
            sample_steps(self.model, config, self.compute, ids=torch.arange(n), seed=seed, batch=batch)
        ).images
