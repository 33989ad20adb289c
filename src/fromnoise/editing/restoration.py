"""Restoration: sample images that agree with a measurement y = A x."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fromnoise.diffusion.inverse import MMPS, InverseSolver, LinearOperator, Mask
from fromnoise.diffusion.sampling import initial_noise
from fromnoise.editing.edit_config import EditConfig
from fromnoise.pipeline import SampleStep


def restore(
    edit: EditConfig,
    operator: LinearOperator,
    y: Tensor,
    size: tuple[int, int],
    solver: InverseSolver | None = None,
) -> Iterator[SampleStep]:
    """Sample images x with A x = y: inpainting, outpainting, colorization, super-resolution and deblurring.

    The finished images are projected onto those that agree with y; known pixels of a mask are kept bit for bit. A model
    of latents fills masks alone: a latent is known if all pixels of its cell are, and the known pixels are put into the
    decoded images.

    Args:
        edit: the model and the sampling settings.
        operator: A.
        y: the measurement, (1, ...), from pixels in [-1, 1].
        size: height and width of the images.
        solver: how the samples are made to agree with y; None is ``MMPS()``.

    Returns:
        A generator of one ``SampleStep`` for each step and batch.

    Raises:
        UserError: when called, as ``Model.shape`` and ``EditConfig.sampling_run``; or the model is one of latents and
            A is not a mask.
    """
    solver = solver or MMPS()
    y, shape = y.to(edit.compute.device), edit.model.shape(size)
    inner, measured = (operator, y) if edit.model.latent_space is None else _in_latents(edit, operator, y, shape)
    run = edit.sampling_run(
        lambda noise, like: initial_noise(shape, noise, like),
        lambda denoise: solver.denoiser(denoise, inner, measured),
    )
    run = replace(run, sampler=solver.sampler(run.sampler, inner, measured))
    return _projected(run.steps(edit.compute, edit.batch), operator, y)


def _in_latents(
    edit: EditConfig, operator: LinearOperator, y: Tensor, shape: tuple[int, int, int]
) -> tuple[LinearOperator, Tensor]:
    """A mask of latents and the latents that it keeps.

    Raises:
        UserError: the operator is not a mask.
    """
    if not isinstance(operator, Mask):
        edit.model.require_pixels("restoration of colour, resolution and sharpness")
    assert isinstance(operator, Mask)
    known = operator.known.expand(*y.shape[1:]).all(0).float()
    cells = F.adaptive_avg_pool2d(known[None, None], shape[1:])[0] == 1
    with torch.no_grad(), edit.compute.autocast():
        mask, z = Mask(cells), edit.model.encode(y)
    return mask, mask.forward(z)


def _projected(steps: Iterator[SampleStep], operator: LinearOperator, y: Tensor) -> Iterator[SampleStep]:
    """The steps, with the finished images projected onto those that agree with y."""
    for sample_step in steps:
        if sample_step.last:
            step, decode = sample_step.step, sample_step.decode
            images = step.x if decode is None else decode(step.x)
            sample_step = replace(sample_step, step=replace(step, x=operator.project(images, y)), decode=None)
        yield sample_step
