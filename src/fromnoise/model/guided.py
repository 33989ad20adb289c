"""A model's denoiser, wrapped in the guidance and the clipping of a sampling configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from fromnoise.config import SamplingConfig
from fromnoise.diffusion import guidance
from fromnoise.diffusion.denoiser import Denoise
from fromnoise.model.component import component
from fromnoise.utils.errors import UserError

if TYPE_CHECKING:
    from fromnoise.model.model import Model

Wrapper = Callable[[Denoise], Denoise]
"""Wraps a denoiser in guidance."""


def no_wrapper(denoise: Denoise) -> Denoise:
    """No guidance."""
    return denoise


def guided(model: Model, config: SamplingConfig, wrap: Wrapper, wrap_outermost: Wrapper) -> Denoise:
    """The denoiser with guidance and clipping; the arguments are those of ``Model.guided``.

    Raises:
        UserError: as of ``Model.guided``.
    """
    if model.latent_space is not None and (config.clip or config.threshold is not None):
        raise UserError("latents are not bounded by 1: leave out --clip and --threshold")
    data = model.recipe.data
    pseudo_labels = model.denoiser.pseudo_labels is not None and model.dataset_info.class_names is None
    conditional = data.labels or data.attributes or pseudo_labels
    # labels may still be given to a classifier that guides
    plain: Denoise = model.denoiser if conditional else guidance.Unconditional(model.denoiser)
    denoise = plain
    if config.guidance != 1:
        model.require_denoiser(f"guidance {config.guidance:g}")
        denoise = _scaled(model, denoise, config)
    denoise = wrap(denoise)
    span = config.interval_logsnr
    if config.interval is not None:
        late, early = model.schedule.logsnr(torch.tensor(config.interval[::-1], dtype=torch.float64)).tolist()
        span = (late, early)
    if span is not None and denoise is not plain:
        denoise = guidance.IntervalGuidance(denoise, plain, *span)
    return clipped(wrap_outermost(denoise), config)


def _scaled(model: Model, denoise: Denoise, config: SamplingConfig) -> Denoise:
    """The denoiser guided by the scale; not guided before training has kept the weaker version for autoguidance."""
    weak: Denoise | None = None
    if config.guidance_method.kind == "autoguidance":
        if model.denoiser.weak_step is None:
            raise UserError(
                "guidance by autoguidance needs a weaker version of this model: train it with --ema.weak_at 0.12 "
                "(recipe fast has it), or give one with --autoguide RUN and leave --guidance out"
            )
        weak = model.denoiser.weak()
        if weak is None:
            return denoise
        weak = guidance.Unconditional(weak) if isinstance(denoise, guidance.Unconditional) else weak
    elif isinstance(denoise, guidance.Unconditional):
        raise UserError(f"--guidance {config.guidance:g} needs a model trained with labels: leave it out")
    return component("guidance", config.guidance_method, denoise=denoise, scale=config.guidance, weak=weak)


def clipped(denoise: Denoise, config: SamplingConfig) -> Denoise:
    """The denoiser with its x_0 kept within [-1, 1], by clipping or dynamic thresholding, if ``config`` says so."""
    if config.threshold is not None:
        return guidance.Threshold(denoise, config.threshold)
    return guidance.Clip(denoise) if config.clip else denoise
