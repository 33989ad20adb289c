"""Samples of a variational autoencoder: latents of the prior, decoded in one pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.sampling import Step
from fromnoise.model import AutoencoderModel
from fromnoise.pipeline.sample_step import SampleStep
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


def decoded_steps(
    model: AutoencoderModel, compute: ComputeConfig, ids: Tensor, seed: int, batch: int, size: tuple[int, int] | None
) -> Iterator[SampleStep]:
    """The centre of p(x | z) for z ~ N(0, I): one ``SampleStep`` a batch (Kingma and Welling 2014).

    Args:
        model: on ``compute.device`` and in eval mode.
        compute: device and precision.
        ids: numbers of the samples, int64 (N,); sample i is a function of (seed, i).
        seed: of the latents.
        batch: samples at a time.
        size: of the samples; None is that of the training images.

    Raises:
        UserError: when called: the latents of this autoencoder do not follow the prior, or it has one size only.
    """
    if not model.objective.generative:
        raise UserError(
            "the latents of this autoencoder do not follow a prior from which they could be sampled: train a diffusion "
            "model of them, fromnoise train latent --autoencoder RUN"
        )
    if size is not None and size != model.dataset_info.shape[1:]:
        height, width = model.dataset_info.shape[1:]
        raise UserError(f"this autoencoder is built for {height}x{width} pixels only: leave out the size")

    def decode(z: Tensor) -> Tensor:
        with torch.inference_mode(), compute.autocast():
            return model.module.decode(z)

    def steps() -> Iterator[SampleStep]:
        noisy, clean = model.levels(model.recipe.sample)
        for part in ids.split(batch):
            like = torch.empty(0, device=compute.device)
            z = Noise(seed, part).normal(model.module.latent_shape, Stream.START, like=like)
            yield SampleStep(part, None, Step(0, 1, noisy, clean, z, Prediction(z)), decode)

    return steps()
