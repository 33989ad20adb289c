"""An autoencoder with its recipe: what training, reconstruction and, for a VAE, sampling need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.config import Recipe, SamplingConfig
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.data.pixels import to_float
from fromnoise.diffusion.reconstruction import Reconstruction, ReconstructionLoss
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.model.component import component
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class AutoencoderModel:
    """An autoencoder with its recipe and a description of its images.

    Attributes:
        recipe: every choice.
        dataset_info: shape of the images.
        module: the autoencoder, as of ``networks.autoencoder``.
    """

    recipe: Recipe
    dataset_info: DatasetInfo
    module: Any

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    @property
    def objective(self) -> Reconstruction:
        """The loss that the recipe names."""
        return component("reconstruction", self.recipe.reconstruction)

    def with_module(self, module: nn.Module) -> AutoencoderModel:
        """The model with other weights."""
        return replace(self, module=module)

    def training_loss(self) -> ReconstructionLoss:
        """The loss with the autoencoder."""
        return ReconstructionLoss(self.module, self.objective, seed=self.recipe.train.seed)

    def training_inputs(
        self, pixels: Tensor, labels: Tensor | None, positions: Tensor, compute: ComputeConfig
    ) -> tuple[Tensor, None]:
        """Images in [-1, 1] on the network's device; labels and positions have no effect."""
        x = to_float(pixels.to(compute.device, non_blocking=True))
        return x.contiguous(memory_format=compute.memory_format), None

    def compile(self) -> None:
        """Refuse to compile.

        Raises:
            UserError: always: an autoencoder is not called as one module.
        """
        raise UserError("an autoencoder is not compiled: leave out --compile")

    def next_command(self, run: object) -> str:
        """What to do with a trained autoencoder, for the end of a run in a directory."""
        if self.objective.generative:
            return f"samples: fromnoise sample {run} -n 100 --out more.png"
        return f"a diffusion model of its latents: fromnoise train latent --autoencoder {run} --data SPEC"

    def network_evaluations(self, config: SamplingConfig) -> int:
        """Evaluations of the network that a sample or a reconstruction takes: one."""
        return 1

    # ---- what sampling from a variational autoencoder needs

    @property
    def network(self) -> nn.Module:
        """The network that sampling evaluates: that of the decoder."""
        return self.module.decoder_network

    @property
    def latent_space(self) -> None:
        """None: samples are made in one pass, and no diffusion takes place."""
        return None

    def levels(self, config: SamplingConfig) -> list[NoiseLevel]:
        """Noise, t = 1, and image, t = 0: sampling is one step."""
        schedule = component("schedule", self.recipe.diffusion.schedule)
        return [schedule.at(1.0), schedule.at(0.0)]

    def default_labels(self, ids: Tensor, seed: int, stratified: bool = True) -> None:
        """None: an autoencoder has no labels."""
        return

    def evaluate_once(self, device: torch.device) -> None:
        """Decode the latents of one image, to count the cost of an evaluation."""
        self.module.decode(torch.zeros(1, *self.module.latent_shape, device=device))

    # ---- reconstruction

    @torch.no_grad()
    def reconstruct(self, pixels: Tensor, compute: ComputeConfig) -> Tensor:
        """Reconstructions of images, from the mean of their latents.

        Args:
            pixels: uint8 (B, C, H, W).
            compute: device and precision.

        Returns:
            float32 (B, C, H, W) in [-1, 1] and a little beyond, on the device.
        """
        x, _ = self.training_inputs(pixels, None, torch.arange(len(pixels)), compute)
        with compute.autocast():
            return self.module.decode(self.module.encode(x)[0])
